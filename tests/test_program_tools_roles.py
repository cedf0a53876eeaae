"""Tools that copy a database while another node becomes the primary; Litestream beside both."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capabilities import require_program
from commands import litemq
from electorate import RETURN, Electorate
from nodes import Node
from program_tools import COPIERS, ToolError, marks, run, shell
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.torture, pytest.mark.timeout(400)]

DATABASE = "entry.db"
ROWS = 3000


@pytest.fixture
def cluster(new_electorate: Callable[..., Electorate]) -> Electorate:
    """Two nodes, and a database that takes a tool a moment to copy."""
    made = new_electorate(size=2)
    with made.primary.connect(DATABASE) as app:
        app.script(
            "PRAGMA journal_mode=WAL",
            "CREATE TABLE entry (id INTEGER PRIMARY KEY, mark TEXT NOT NULL, data BLOB)",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
            f"{ROWS}) INSERT INTO entry SELECT i, 'a.' || i, randomblob(4000) FROM n",
        )
    made.agree(DATABASE)
    return made


def hand_over(cluster: Electorate) -> None:
    old, (new,) = cluster.primary, cluster.replicas
    eventually(lambda: litemq("promote", "--config", new.config_path).code, until=0)
    cluster.wait_primary(other_than=old)


def kill(cluster: Electorate) -> None:
    """The whole node; it comes back as a replica."""
    old = cluster.primary
    cluster.kill(old)
    cluster.wait_primary()
    old.start()


@contextlib.contextmanager
def copying(node: Node, tool: str, directory: Path) -> Iterator[dict[str, list[Path]]]:
    """The tool at work again and again on a node; the copies that it made, or failed to."""
    ends: dict[str, list[Path]] = {"done": [], "failed": []}
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            copy = directory / f"{node.name}-{len(ends['done']) + len(ends['failed'])}.db"
            try:
                COPIERS[tool](node.mount / DATABASE, copy)
            except ToolError as error:
                print(node.name, error)
                ends["failed"].append(copy)
                stop.wait(0.05)
            else:
                ends["done"].append(copy)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ends
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("change", [hand_over, kill])
@pytest.mark.parametrize("tool", COPIERS)
def test_copy_when_the_primary_changes_meanwhile_then_it_is_right_or_the_tool_fails(
    cluster: Electorate, tool: str, change: Callable[[Electorate], None], tmp_path: Path
) -> None:
    """On both nodes, and only a death makes it fail; afterwards both can be copied again."""
    first, second = cluster.nodes
    with copying(first, tool, tmp_path) as here, copying(second, tool, tmp_path) as there:
        for _ in range(2):
            eventually(lambda: here["done"] and there["done"], what="both are copied")
            change(cluster)
        made = len(here["done"]), len(there["done"])
        eventually(lambda: len(here["done"]) > made[0] and len(there["done"]) > made[1])
    expected = [f"a.{number}" for number in range(1, ROWS + 1)]
    for copy in here["done"] + there["done"]:
        assert marks(copy) == expected, copy
    if change is hand_over:
        assert not here["failed"] + there["failed"]
    cluster.agree(DATABASE)


def test_litestream_when_it_runs_on_both_nodes_then_each_has_a_backup_of_its_time(
    new_electorate: Callable[..., Electorate], tmp_path: Path
) -> None:
    """The recipe of docs/programs.md: it is started anew with each change of role."""
    program = require_program("litestream")
    cluster = new_electorate(size=0, start=False)
    cluster.announce(*RETURN)
    commands = {}
    for _ in range(2):
        node = cluster.add(app={"on-role-change": "restart"})
        configuration = tmp_path / f"{node.name}.yml"
        configuration.write_text(
            f"dbs:\n  - path: {node.mount / DATABASE}\n    meta-path: {tmp_path / node.name}-meta\n"
            f"    replica:\n      path: {tmp_path / node.name}-backup\n"
            "      sync-interval: 100ms\n"
        )
        commands[node.name] = [program, "replicate", "-config", str(configuration)]
        node.start(command=commands[node.name])
    written = 0

    def write(count: int = 20) -> None:
        nonlocal written
        with cluster.wait_primary().connect(DATABASE) as app:
            app.script(
                "PRAGMA journal_mode=WAL",
                "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, mark TEXT NOT NULL)",
            )
            for _ in range(count):
                written += 1
                app.sql("INSERT INTO entry (mark) VALUES (?)", f"a.{written}")

    def backed_up(node: Node) -> bool:
        copy = tmp_path / "copy.db"
        copy.unlink(missing_ok=True)
        shutil.rmtree(f"{copy}-wal", ignore_errors=True)
        with contextlib.suppress(ToolError):
            run(
                program, "restore", "-config", tmp_path / f"{node.name}.yml", "-o", copy,
                node.mount / DATABASE,
            )  # fmt: skip
            return marks(copy) == [f"a.{number}" for number in range(1, written + 1)]
        return False

    for _ in range(3):
        write()
        node = cluster.wait_primary()
        eventually(
            lambda node=node: backed_up(node), timeout_s=60, what=f"{node.name} is backed up"
        )
        cluster.agree(DATABASE)
        hand_over(cluster)
    for node in cluster.nodes:
        assert shell(node.mount / DATABASE, "PRAGMA integrity_check").strip() == "ok"
