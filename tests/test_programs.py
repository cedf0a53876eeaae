"""Real programs on real nodes: they work, and what happens to them is what docs/programs.md says.

One test a program and set-up (support/program_table.py), the same five scenarios each. The programs
are in tests/programs; `make programs` installs them and runs all of this.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import litemq
from electorate import Electorate
from program_table import PROGRAMS, Program, Recoveries
from program_world import ProgramWorld, Writer

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(300)]

DOCS = Path(__file__).parents[1] / "docs"
#: those that need nothing but Python, and take seconds
FAST = {"python's-sqlite3-kept"}


@contextlib.contextmanager
def world(
    elect: Callable[..., Electorate], program: Program, writers: int
) -> Iterator[ProgramWorld]:
    made = ProgramWorld(elect(size=2), program, writers=writers)
    try:
        yield made
    finally:
        made.close()


def at_work(writers: list[Writer]) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for each in writers:
        stack.enter_context(each.at_work())
    return stack


def run(elect: Callable[..., Electorate], program: Program, writers: int = 1) -> Recoveries:
    """The five scenarios, one after the other; what the program needed."""
    with world(elect, program, writers) as here:
        cluster = here.cluster
        first = cluster.primary
        (second,) = cluster.replicas
        on_first, on_second = here.programs(first), here.programs(second)

        # it works on the primary, and reads on a replica, where it can't write
        with at_work(on_first):
            pass
        assert not [each.errors for each in on_first if each.errors]
        for each in on_second:
            here.sees_all(each.process)
            with pytest.raises(Exception, match=r"(?i)readonly|read-only|permission|500"):
                each.write()

        # the FUSE actor dies: the primary's, and the replica's
        with at_work(on_first):
            first.kill_actor("fuse_capture")
            here.wait_well(first)
        assert cluster.primary is first
        died = here.writes_again(on_first)
        second.kill_actor("fuse_capture")
        here.wait_well(second)
        for each in on_first:
            each.write()
        assert here.reads_again(on_second, second) is died
        here.check_rows()

        # the primary is handed over
        with at_work(on_first):
            done = litemq("promote", "--config", second.config_path)
            assert done.code == 0, done
            cluster.wait_primary(other_than=first)
            here.wait_well(second)
        promoted = here.writes_again(on_second)
        deposed = here.reads_again(on_first, first)
        here.check_rows()

        # the primary is killed
        for each in on_first:
            each.process.restart()  # it has known its node as a replica only
            each.process.read()
        with at_work(on_second):
            cluster.kill(second)
        cluster.wait_primary(other_than=second)
        here.wait_well(first)
        assert here.writes_again(on_first) is promoted
        second.start()
        here.wait_well(second)
        returned = here.reads_again(on_second, second)
        here.check_rows(lost_with=second)
        return Recoveries(died, promoted, deposed, returned)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(each, id=each.id, marks=[] if each.id in FAST else pytest.mark.torture)
        for each in PROGRAMS
    ],
)
def test_program_when_processes_die_and_roles_change_then_it_does_as_documented(
    new_electorate: Callable[..., Electorate], program: Program
) -> None:
    """Nothing that was acknowledged is lost, nodes agree, and the table says who goes on."""
    assert run(new_electorate, program) == program.recoveries


@pytest.mark.torture
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_eight_writers_when_processes_die_and_roles_change_then_each_does_as_documented(
    new_electorate: Callable[..., Electorate], mode: str
) -> None:
    """Eight processes that write to one database at once, and eight that read it."""
    (program,) = [
        each for each in PROGRAMS if each.name.startswith("Python") and each.journal_mode == mode
    ]
    assert run(new_electorate, program, writers=8) == program.recoveries


def test_page_when_generated_anew_then_it_is_the_one_in_docs() -> None:
    """docs/programs.md holds the table that these tests use; `make docs` writes it."""
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.program_table() in (DOCS / "programs.md").read_text()
