"""Programs that are stopped in the middle of a transaction: others wait, and are told for whom."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from commands import litemq, refused
from electorate import Electorate
from nodes import Cluster, Node
from sql_process import SqlProcess
from waiting import eventually

pytestmark = pytest.mark.fuse


@contextlib.contextmanager
def stopped(app: SqlProcess) -> Iterator[None]:
    os.kill(app.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(app.pid, signal.SIGCONT)


def shown(node: Node, database: str) -> tuple[str, str]:
    """State and reason in `litemq status`."""
    status = node.status()
    assert status is not None
    found = [(d.state, d.reason) for d in status.databases if d.name == database]
    assert len(found) == 1, status.databases
    return found[0]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_status_when_a_stopped_program_keeps_writers_waiting_then_it_names_it(
    cluster: Cluster, mode: str
) -> None:
    """As long as it is stopped, on the primary; the database next to it is as ever."""
    primary = cluster.primary
    with primary.connect("held.db") as app, primary.connect("free.db") as free:
        for each in (app, free):
            each.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
        app.script("BEGIN IMMEDIATE", "INSERT INTO t VALUES(1)")
        told = f"process {app.pid} ("
        with stopped(app):
            eventually(lambda: told in shown(primary, "held.db")[1], what="status names it")
            assert shown(primary, "held.db")[0] == "blocked"
            assert shown(primary, "free.db") == ("ok", "")
            done = litemq("status", "--config", primary.config_path)
            assert "is stopped and holds a lock on it" in done.out, done
        eventually(lambda: shown(primary, "held.db") == ("ok", ""), what="it goes on")
        app.sql("COMMIT")
    cluster.agree("held.db")


def test_promote_when_a_stopped_program_is_in_the_way_then_it_is_named(
    new_electorate: Callable[..., Electorate],
) -> None:
    """And by `handoff`, on the other node; when the program goes on, so does the hand-over."""
    cluster = new_electorate(size=2)
    old, target = cluster.primary, cluster.replicas[0]
    target.announce("log not fit", "the election needs attention")
    with old.connect("held.db") as app:
        app.script("PRAGMA journal_mode=delete", "CREATE TABLE t(x)")
        cluster.agree("held.db")
        with target.connect("held.db") as reader:
            reader.script("BEGIN", "SELECT * FROM t")
            with stopped(reader):
                app.sql("INSERT INTO t VALUES(1)")
                told = f"held.db is blocked: process {reader.pid} ("
                eventually(lambda: shown(target, "held.db")[0] == "blocked", what="it is seen")
                refused(litemq("promote", "--config", target.config_path), 1, told)
                refused(litemq("handoff", "--config", old.config_path), 1, told)
                refused(
                    litemq("handoff", "--config", old.config_path, "--to", target.name), 1, told
                )
                assert cluster.primary is old
            reader.sql("COMMIT")
    cluster.agree("held.db")
    eventually(
        lambda: litemq("promote", "--config", target.config_path).code, until=0, what="promoted"
    )
    assert cluster.wait_primary(other_than=old) is target
