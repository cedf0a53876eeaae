"""What `NAME-pos` shows on the primary: never less than what was committed before it was read."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

import pytest
from nodes import Cluster
from waiting import eventually

from litemq.txlog.position import parse

pytestmark = [pytest.mark.caches, pytest.mark.fuse]


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    return new_shared_cluster()


def txid_in(path: os.PathLike[str]) -> int:
    with open(path, encoding="ascii") as file:
        return parse(file.read().strip()).txid


@pytest.mark.parametrize("mode", ["wal", "delete", "memory"])
def test_position_when_read_behind_a_commit_then_a_replica_that_shows_it_has_the_row(
    shared: Cluster, mode: str
) -> None:
    """Whatever the journal mode."""
    name = f"{mode}.db"
    primary, (replica,) = shared.primary, shared.replicas
    with primary.connect(name) as app:
        app.script(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=NORMAL", "CREATE TABLE t(x)")
        eventually((primary.mount / f"{name}-pos").exists, what="it is known")
        told = txid_in(primary.mount / f"{name}-pos")
        for number in range(100):
            app.sql("INSERT INTO t VALUES(?)", number)
            before, told = told, txid_in(primary.mount / f"{name}-pos")
            assert told > before, number
        eventually(lambda: txid_in(replica.mount / f"{name}-pos") >= told, what="it is there")
        with replica.connect(name) as reader:
            assert reader.one("SELECT max(x) FROM t") == 99


def test_position_when_a_file_was_copied_over_a_database_then_it_is_that_of_the_copy(
    shared: Cluster,
) -> None:
    """A change without a journal."""
    mount = shared.primary.mount
    for number, name in enumerate(("old.db", "new.db")):
        with shared.primary.connect(name) as app:
            app.script("PRAGMA user_version=1", *["CREATE TABLE t(x)"] * number)
    eventually((mount / "old.db-pos").exists, what="it is known")
    old = txid_in(mount / "old.db-pos")
    for _ in range(10):
        shutil.copyfile(mount / "new.db", mount / "old.db")
        copied = txid_in(mount / "old.db-pos")
        with shared.primary.connect("old.db") as app:
            app.script("DROP TABLE t")
        dropped = txid_in(mount / "old.db-pos")
        assert old < copied < dropped
        old = dropped
    shared.agree("old.db")


def test_position_when_the_log_writer_does_not_answer_then_the_last_one_is_shown(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Whoever reads it does not hang."""
    cluster = new_cluster(replicas=0)
    primary = cluster.primary
    with primary.connect("a.db") as app:
        app.script("CREATE TABLE t(x)")
    cluster.captured("a.db")
    before = txid_in(primary.mount / "a.db-pos")
    writer = primary.actor("log_writer").pid
    os.kill(writer, signal.SIGSTOP)
    try:
        assert txid_in(primary.mount / "a.db-pos") == before
    finally:
        os.kill(writer, signal.SIGCONT)
    cluster.captured("a.db")
