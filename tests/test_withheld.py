"""A database that is behind its log and can't be brought forward: nobody has it, others go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from nodes import Cluster, Node
from sql_process import SqlError, SqlProcess
from tools import fail, succeed
from waiting import eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have one file refuse root"),
]

REFUSED = "unable to open database file"


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_cluster(sections={"mount": {"write-back": True}})
    cluster.primary.announce("actor ended", "torn tail", "may be behind its log", "can't be logged")
    cluster.replicas[0].announce("the primary is silent")
    return cluster


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """EROFS for this one file."""
    succeed("mount", "--bind", path, path, directory=path.parent)
    try:
        succeed("mount", "-o", "remount,ro,bind", path, directory=path.parent)
        yield
    finally:
        succeed("umount", path, directory=path.parent)


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """EPERM for who would write in it."""
    succeed("chattr", "-R", "+i", folder, directory=folder.parent)
    try:
        yield
    finally:
        succeed("chattr", "-R", "-i", folder, directory=folder.parent)


def fill(app: SqlProcess, rows: int) -> None:
    app.ask("repeat", "INSERT INTO t VALUES(1)", rows)


def rows(node: Node, name: str) -> object:
    with node.connect(name) as app:
        return app.one("SELECT count(*) FROM t")


def state(node: Node, name: str) -> tuple[str, str]:
    status = node.status()
    found = [each for each in status.databases if each.name == name] if status else []
    return (found[0].state, found[0].reason) if found else ("", "")


def behind_their_logs(cluster: Cluster, *names: str) -> None:
    """Of each database the replica has 201 rows, and the dead primary's file fewer."""
    primary, (replica,) = cluster.primary, cluster.replicas
    with ExitStack() as stack:
        apps = [stack.enter_context(primary.connect(name)) for name in names]
        for app in apps:
            app.script("PRAGMA journal_mode=wal", "PRAGMA synchronous=NORMAL")
            app.script("CREATE TABLE t(x)")
            fill(app, 100)
            app.sql("PRAGMA wal_checkpoint")
            fill(app, 100)
            app.sql("INSERT INTO t VALUES(hex(zeroblob(100000)))")
        for name in names:
            eventually(
                lambda name=name: has_rows(replica, name, 201), what=f"the replica has {name}"
            )
        # whoever dies with the node closes its files, and the kernel would write them
        primary.kill_actor("fuse_capture", signal.SIGSTOP)
        primary.kill()
        for app in apps:
            app.kill()


def has_rows(node: Node, name: str, count: int) -> bool:
    with node.connect(name) as reader:
        return bool(reader.ask("attempt", "SELECT count(*) FROM t", []) == ["rows", [[count]]])


def refused(node: Node, name: str, *statements: str) -> None:
    for statement in statements:
        with pytest.raises(SqlError, match=REFUSED), node.connect(name) as app:
            app.sql(statement)


def test_database_when_it_cannot_be_brought_forward_then_the_node_is_ready_and_the_others_go_on(
    cluster: Cluster,
) -> None:
    """Nobody can read or write it, nor put another in its place, until it is; then it has all."""
    primary = cluster.primary
    behind_their_logs(cluster, "bad.db", "good.db")
    with read_only(primary.data_dir / "files" / "bad.db"):
        primary.start()
        assert state(primary, "bad.db")[0] == "failing"
        assert "can't be brought forward" in state(primary, "bad.db")[1]
        with primary.connect("good.db") as app:
            assert app.one("SELECT count(*) FROM t") == 201
            fill(app, 10)
        cluster.agree("good.db")
        refused(primary, "bad.db", "SELECT count(*) FROM t", "INSERT INTO t VALUES(2)")
        assert primary.position("bad.db") is None
        for command in (
            ("rm", "bad.db"), ("mv", "bad.db", "other.db"), ("mv", "good.db", "bad.db"),
            ("truncate", "-s", "0", "bad.db"), ("sh", "-c", "echo >> bad.db-wal"),
            ("touch", "bad.db-journal"), ("cp", "bad.db-wal", "x"),
        ):  # fmt: skip
            assert "Device or resource busy" in fail(*command, directory=primary.mount)
        assert "bad.db" in succeed("ls", directory=primary.mount)
        # who comes after it knows, too
        killed = primary.kill_actor("log_writer")
        eventually(lambda: primary.actor("log_writer").pid != killed)
        primary.wait_ready()
        eventually(lambda: state(primary, "bad.db")[0], until="failing", what="it is told again")
        refused(primary, "bad.db", "INSERT INTO t VALUES(2)")
    eventually(lambda: state(primary, "bad.db"), until=("ok", ""), what="it is tried again")
    assert primary.logged("brought forward", db="bad.db")
    assert len(primary.logged("may be behind its log")) == 2, "once in each life of a log writer"
    with primary.connect("bad.db") as app:
        assert app.one("SELECT count(*) FROM t") == 201
        assert app.one("PRAGMA integrity_check") == "ok"
        fill(app, 10)
    cluster.agree("bad.db")


@pytest.mark.parametrize("end", ["stopped", "mount killed", "killed"])
def test_node_when_it_ends_with_such_a_database_then_its_next_life_brings_it_forward(
    cluster: Cluster, end: str
) -> None:
    """A clean end of the others is none of this one."""
    primary = cluster.primary
    behind_their_logs(cluster, "bad.db", "good.db")
    with read_only(primary.data_dir / "files" / "bad.db"):
        primary.start()
        assert state(primary, "bad.db")[0] == "failing"
        if end == "stopped":
            primary.stop()
        elif end == "killed":
            primary.kill()
        else:
            primary.kill_actor("fuse_capture")
            eventually(lambda: len(primary.logged("mounted")) == 3, what="another mount")
            refused(primary, "bad.db", "INSERT INTO t VALUES(2)")
    if end != "mount killed":
        primary.start()
    eventually(lambda: state(primary, "bad.db"), until=("ok", ""), what="it is tried again")
    for name in ("bad.db", "good.db"):
        assert rows(primary, name) == 201
        cluster.agree(name)


def test_database_when_its_log_could_not_be_written_then_what_programs_committed_counts(
    cluster: Cluster,
) -> None:
    """They were let through meanwhile: its log is not what it is to be brought to."""
    primary = cluster.primary
    with primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "PRAGMA synchronous=FULL")
        app.script("CREATE TABLE t(x)", "CREATE TABLE u(x)")
        fill(app, 20)
        cluster.agree("a.db")
        primary.announce("had changed without its log")
        with immutable(primary.data_dir / "databases" / "a.db" / "log"):
            killed = primary.kill_actor("log_writer")
            eventually(lambda: primary.actor("log_writer").pid != killed)
            eventually(lambda: state(primary, "a.db")[0], until="failing")
            fill(app, 20)
            app.script("PRAGMA wal_checkpoint(TRUNCATE)", "INSERT INTO u VALUES(1)")
            primary.kill()
        app.kill()
    primary.start()
    assert rows(primary, "a.db") == 40
    cluster.agree("a.db")
