"""`litemq demo` from its first line to the last trace of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from capabilities import require_fuse
from click.testing import CliRunner
from commands import environment, litemq

from litemq import cli
from litemq.bench.accounts import Account
from litemq.bench.demo import Demo, Outcome, Row
from litemq.config import load
from litemq.errors import LiteMQError

pytestmark = pytest.mark.fuse


def left_behind(directory: Path) -> list[str]:
    """Files and mounts below the directory that the demonstration was given for its own."""
    mounts = [
        line.split(" ")[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {directory}/" in line
    ]
    return mounts + [str(path) for path in directory.iterdir()]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    require_fuse()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_demo_when_its_seconds_are_over_then_all_nodes_are_equal_and_nothing_is_left(
    directory: Path,
) -> None:
    """Its primary dies, another takes over, it stops by itself, accounts for all rows, exits 0."""
    done = litemq("demo", "--seconds", "2")
    assert done.code == 0, done
    assert "all nodes are equal" in done.out
    ended = re.findall(
        r"^(node-[123]) +(primary|replica) +(\d+) +([0-9a-f]{16}) +0 ms +(\d+)$",
        done.out,
        re.MULTILINE,
    )
    assert [name for name, *_ in ended] == ["node-1", "node-2", "node-3"]
    assert len({tuple(state) for _, _, *state in ended}) == 1
    assert int(ended[0][4]) > 100
    assert "rows/s" in done.out  # plain lines, for this is no terminal
    assert "\x1b" not in done.out
    killed = re.search(
        r"^killed (node-.); (node-.) is primary after \d+ ms", done.out, re.MULTILINE
    )
    assert killed is not None, done.out
    assert killed[1] != killed[2]
    assert [(name, role) for name, role, *_ in ended if role == "primary"] == [
        (killed[2], "primary")
    ]
    assert re.search(rf"{killed[1]} (dead|starting)", done.out), done.out
    assert left_behind(directory) == []
    counts = re.search(
        r"^(\d+) rows acknowledged: (\d+) on (node-.), (\d+) listed as diverged, 0 lost$",
        done.out,
        re.MULTILINE,
    )
    assert counts is not None, done.out
    assert counts[3] == killed[2]
    assert int(counts[1]) == int(counts[2]) + int(counts[4]) > 100


@pytest.mark.parametrize("sign", ["rows/s", "dead"])
def test_demo_when_interrupted_then_it_drains_and_nothing_is_left(
    directory: Path, sign: str
) -> None:
    """Ctrl-C reaches the whole foreground group; the nodes are stopped in order all the same.

    Before the primary is killed, and while it is dead.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "litemq", "demo"],
        stdout=subprocess.PIPE,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if sign in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
    assert "all nodes are equal" in rest
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert left_behind(directory) == []


def test_demo_when_killed_then_its_nodes_end_and_unmount(directory: Path) -> None:
    """kill -9 of the demonstration leaves files at most."""
    with subprocess.Popen(
        [sys.executable, "-m", "litemq", "demo"],
        stdout=subprocess.PIPE,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "rows/s" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert not [path for path in left_behind(directory) if "mount" in path]
    files = [path.resolve() for path in directory.rglob("node-*.toml")]
    assert len(files) == 3
    for file in files:
        shutil.rmtree(load(file).run_dir)  # a path too long for sockets: it lies elsewhere


def demo(account: Account, *, checksums: tuple[str, str] = ("a", "a")) -> Outcome:
    """How a run might have ended."""
    rows = [
        Row(name, "replica", 7, checksum, 0, 5)
        for name, checksum in zip(("node-1", "node-2"), checksums, strict=True)
    ]
    return Outcome(rows, "node-1", account)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (demo(Account(5, 5, 0, 0, 0, 0), checksums=("a", "b")), "did not end equal"),
        (demo(Account(5, 4, 0, 1, 0, 0)), "lost"),
        (demo(Account(5, 5, 0, 0, 1, 0)), "two nodes at once"),
    ],
    ids=["unequal", "lost", "overlapping"],
)
def test_demo_when_it_ends_wrong_then_it_fails(
    outcome: Outcome, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the things it compares can make it fail."""
    monkeypatch.setattr(Demo, "run", lambda _self: outcome)
    done = CliRunner().invoke(cli.litemq, ["demo"])
    assert isinstance(done.exception, LiteMQError)
    assert words in str(done.exception)
    assert "all nodes are equal" not in done.output


def test_demo_when_it_ends_well_then_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counterpart: diverged rows are no fault."""
    monkeypatch.setattr(Demo, "run", lambda _self: demo(Account(5, 4, 1, 0, 0, 1)))
    done = CliRunner().invoke(cli.litemq, ["demo"])
    assert done.exit_code == 0
    assert "5 rows acknowledged: 4 on node-1, 1 listed as diverged, 0 lost" in done.output
