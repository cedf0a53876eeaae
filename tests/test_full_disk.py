"""A full disk: SQLite's own error for the application, nothing lost, and all goes on when there is
room again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from disks import MIB, SmallDisk, disk
from nodes import Cluster, Node
from sql_process import SqlProcess
from waiting import eventually

__all__ = ["disk"]
pytestmark = [pytest.mark.fuse, pytest.mark.caches]

FULL = "database or disk is full"
#: where writes are cached, SQLite hears of it at the sync, and has no better name for that
AT_THE_SYNC = "disk I/O error"
STALLED = (
    "the disk is full",
    "can't append to the log",
    "housekeeping failed",
    "can't delete old log segments",
)
NO_ROOM_TO_APPLY = ("can't apply", "can't open the log", "a repair failed")
INSERT = "INSERT INTO t(x) VALUES(randomblob(20000))"


def on_disk(cluster: Cluster, node: Node, disk: SmallDisk, **sections: dict[str, Any]) -> None:
    """Have that node keep everything on the small disk."""
    node.data_dir = disk.path / "data"
    node.configure(
        cluster.primary.address,
        {"node": {"data-dir": str(node.data_dir)}, "log": {"level": "info"}, **sections},
    )


def pids(node: Node) -> dict[str, int]:
    status = node.status()
    assert status is not None, f"{node.name} does not answer"
    return {actor.name: actor.pid for actor in status.actors}


def accepted(app: SqlProcess, statement: str) -> bool:
    """Whether there was room for it; any other error is wrong."""
    kind, *rest = app.ask("attempt", statement, [])
    assert kind == "rows" or rest[1] in ((AT_THE_SYNC, FULL) if Node.write_back else (FULL,)), rest
    return bool(kind == "rows")


def write_until_full(app: SqlProcess, statement: str = INSERT, most: int = 5000) -> int:
    """Insert rows until SQLite refuses; how many it has acknowledged."""
    for number in range(most):
        if not accepted(app, statement):
            return number
    raise AssertionError(f"the disk was not full after {most} rows")


def write_again(app: SqlProcess, statement: str = INSERT) -> None:
    """A row that must get in by itself, as soon as there is room."""
    eventually(lambda: accepted(app, statement), timeout_s=30, what="SQLite writes again")


def whole(cluster: Cluster, database: str, rows: int, *, doubtful: int = 0) -> None:
    """Every node has that many rows, or up to so many more, and SQLite finds nothing wrong."""
    cluster.agree(database)
    found = set()
    for node in cluster.nodes:
        with node.connect(database) as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            found.add(reader.one("SELECT count(*) FROM t"))
    assert found <= set(range(rows, rows + doubtful + 1)), found
    assert len(found) == 1, "the nodes differ"


def refused_at_the_sync(mode: str = "wal") -> int:
    """Rows that were an error at the sync, and stand in the WAL after a crash, as on any disk."""
    return int(Node.write_back and mode == "wal")


@pytest.mark.diagonal
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_writer_when_the_disk_is_full_then_it_is_told_and_goes_on_when_there_is_room(
    disk: SmallDisk, new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """Filled by the database and its log; again and again; nobody dies, all rows arrive."""
    cluster = new_cluster(start=False)
    primary = cluster.primary
    primary.announce(*STALLED)
    on_disk(cluster, primary, disk)
    cluster.start()
    before = pids(primary)
    rows = 0
    with primary.connect("a.db") as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        for room in (3 * MIB, 1 * MIB, 100_000, 0):
            disk.leave(room)
            rows += write_until_full(app)
            assert app.one("SELECT count(*) FROM t") == rows
            assert pids(primary) == before
            disk.empty()
            write_again(app)
            rows += 1
            whole(cluster, "a.db", rows)
    assert pids(primary) == before


@pytest.mark.diagonal
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_actors_when_killed_while_the_disk_is_full_then_they_come_back_to_it(
    disk: SmallDisk, new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """Not one byte is free when they start again; what was acknowledged is there afterwards."""
    cluster = new_cluster(start=False)
    primary = cluster.primary
    primary.announce(*STALLED, "actor ended", "can't read the WAL", "had changed without its log")
    on_disk(cluster, primary, disk)
    cluster.start()
    with primary.connect("a.db") as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        app.sql(INSERT)
        disk.fill()
        rows = 1 + write_until_full(app)
        for actor in ("log_writer", "stream_publisher", "log_writer", "fuse_capture"):
            # a log writer whose log has no room is there, and not ready
            killed = pids(primary)[actor]
            os.kill(killed, signal.SIGKILL)
            eventually(
                lambda a=actor, k=killed: pids(primary)[a] not in (0, k), what=f"{actor} returns"
            )
    disk.empty()
    primary.wait_ready()
    with primary.connect("a.db") as app:
        write_again(app)
    whole(cluster, "a.db", rows + 1, doubtful=refused_at_the_sync(mode))


def test_databases_when_made_on_a_full_disk_then_they_are_refused_or_whole(
    disk: SmallDisk, new_cluster: Callable[..., Cluster]
) -> None:
    """A new database needs a log of its own: there is no room for that either."""
    cluster = new_cluster(start=False)
    primary = cluster.primary
    primary.announce(*STALLED)
    on_disk(cluster, primary, disk)
    cluster.start()
    before = pids(primary)
    disk.fill()
    made = []
    for number in range(4):
        with primary.connect(f"new{number}.db") as app:
            if all(
                accepted(app, each) for each in ("CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
            ):
                made.append(f"new{number}.db")
    disk.empty()
    for number in range(4):
        with primary.connect(f"new{number}.db") as app:
            write_again(app, "CREATE TABLE IF NOT EXISTS t(x)")
            write_again(app, "INSERT INTO t VALUES(2)")
            whole(cluster, f"new{number}.db", 2 if f"new{number}.db" in made else 1)
    assert pids(primary) == before


def test_retention_when_the_log_has_filled_the_disk_then_it_makes_room(
    disk: SmallDisk, new_cluster: Callable[..., Cluster]
) -> None:
    """The same rows again and again: the log grows until old segments go, with no help."""
    cluster = new_cluster(start=False)
    primary = cluster.primary
    primary.announce(*STALLED)
    on_disk(cluster, primary, disk, retention={"bytes": "1MiB", "segment-bytes": "128KiB"})
    cluster.start()
    before = pids(primary)
    with primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        app.sql("PRAGMA wal_autocheckpoint=20")  # so that it is the log that grows
        app.sql(INSERT)
        disk.leave(3 * MIB)  # to be filled before retention looks again
        update = "UPDATE t SET x=randomblob(20000)"
        for _ in range(2):
            write_until_full(app, update)
            write_again(app, update)
        whole(cluster, "a.db", 1)
    assert pids(primary) == before


@pytest.mark.diagonal
@pytest.mark.parametrize("fuse", [True, False], ids=["mount", "plain"])
def test_replica_when_its_disk_is_full_then_the_primary_goes_on_and_it_heals(
    disk: SmallDisk, new_cluster: Callable[..., Cluster], fuse: bool
) -> None:
    """Records, new databases and repairs wait for room; readers keep what there was."""
    cluster = new_cluster(replicas=int(fuse), plain=int(not fuse), start=False)
    (replica,) = cluster.replicas
    replica.announce(*NO_ROOM_TO_APPLY)
    on_disk(cluster, replica, disk)
    if not fuse:
        replica.mount = disk.path / "plain"
        sections = {"path": str(replica.mount), "fuse": False}
        on_disk(cluster, replica, disk, mount=sections)
    cluster.start()
    before = pids(replica)
    databases = ["wal.db", "delete.db"]
    apps = {name: cluster.primary.connect(name) for name in databases}
    for name, app in apps.items():
        mode = name.removesuffix(".db")
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        app.sql(INSERT)
        cluster.agree(name)
    for _ in range(2):
        disk.fill()
        for app in apps.values():
            app.ask("repeat", INSERT, 60)
        with cluster.primary.connect("late.db") as late:
            late.script("CREATE TABLE IF NOT EXISTS t(x)", "INSERT INTO t VALUES(1)")
        eventually(lambda: replica.logged("can't apply"), what="the replica says so")
        with replica.connect("wal.db") as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
        assert pids(replica) == before
        disk.empty()
        for name in databases:
            cluster.agree(name)
        cluster.agree("late.db")
    whole(cluster, "wal.db", 121)
    whole(cluster, "delete.db", 121)
    assert pids(replica) == before


def test_node_when_started_on_a_full_disk_then_it_says_so_or_serves_readers(
    disk: SmallDisk, new_cluster: Callable[..., Cluster]
) -> None:
    """Killed while the disk was full, started again on it: no traceback, and nothing is lost."""
    cluster = new_cluster(start=False)
    primary = cluster.primary
    primary.announce(*STALLED, "actor ended", "had changed without its log", "keeps crashing")
    cluster.replicas[0].announce("primary is silent")
    on_disk(cluster, primary, disk)
    cluster.start()
    with primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        app.sql(INSERT)
        disk.fill()
        rows = 1 + write_until_full(app)
    primary.kill()
    primary.start(ready=False)
    eventually(lambda: not primary.running or primary.status(), what="it has started, or ended")
    if not primary.running:
        assert primary.wait() != 0
    assert "Traceback" not in primary.stderr()
    disk.empty()
    if not primary.running:
        primary.start(ready=False)
    primary.wait_ready()
    with primary.connect("a.db") as app:
        write_again(app)
    whole(cluster, "a.db", rows + 1, doubtful=refused_at_the_sync())
