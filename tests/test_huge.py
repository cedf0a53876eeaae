"""Transactions too large for a record: the log starts anew, replicas get what differs, memory is
bounded.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import litemq
from nodes import Cluster, Node
from sql_process import SqlProcess
from tools import succeed
from waiting import eventually

from litemq.txlog.new_start import LARGEST_RECORD_BYTES

pytestmark = [pytest.mark.fuse, pytest.mark.caches]

DIED = ("actor ended", "without its log")
ANEW = "a transaction too large for the log"
#: fewer pages to compare
PAGES = "PRAGMA page_size=32768"
#: so many rows of 100 KB, a part of each like nothing else
GROW = (
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT ?) "
    "INSERT INTO t SELECT randomblob(1000) || zeroblob(99000) FROM c"
)
#: what one actor may take beside the pages of one record (bytes)
MEMORY = 3 * LARGEST_RECORD_BYTES


def grow(app: SqlProcess, megabytes: int) -> None:
    """By one transaction."""
    app.sql(GROW, megabytes * 10)


def database(cluster: Cluster, mode: str) -> SqlProcess:
    app = cluster.primary.connect("a.db", timeout_s=60)
    app.script(PAGES, f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
    return app


def peak(node: Node, actor: str) -> int:
    """The most memory that the actor has had (bytes)."""
    text = Path(f"/proc/{node.actor(actor).pid}/status").read_text("ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found[1]) * 1024


def agree(cluster: Cluster) -> None:
    cluster.agree("a.db", timeout_s=60)


@pytest.mark.diagonal
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_transaction_when_it_is_huge_then_every_replica_gets_it_and_memory_is_bounded(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """With and without a mount, before and after other transactions, also a shrinking one."""
    cluster = new_cluster(plain=1)
    with database(cluster, mode) as app:
        agree(cluster)
        grow(app, 180)
        app.sql("INSERT INTO t VALUES(2)")
        agree(cluster)
        assert cluster.primary.logged(ANEW)
        app.sql("UPDATE t SET x = zeroblob(100000) WHERE length(x) > 1")
        app.sql("INSERT INTO t VALUES(3)")
        agree(cluster)
        for node, actors in (
            (cluster.primary, ("log_writer", "fuse_capture", "stream_publisher")),
            (cluster.replicas[0], ("replica_applier", "fuse_capture")),
        ):
            for actor in actors:
                assert peak(node, actor) < MEMORY, actor
        app.script("DELETE FROM t WHERE length(x) > 1", "VACUUM")
        agree(cluster)
        assert app.sql("PRAGMA integrity_check") == [("ok",)]


def test_file_when_a_huge_one_is_copied_in_then_it_is_replicated(
    new_cluster: Callable[..., Cluster],
) -> None:
    """And written as any other afterwards; a copy and LTX files of it can be had."""
    cluster = new_cluster()
    directory = cluster.directory
    with SqlProcess(directory / "native.db") as native:
        native.script(PAGES, "CREATE TABLE t(x)")
        grow(native, 120)
    succeed("cp", "native.db", cluster.primary.mount / "a.db", directory=directory)
    agree(cluster)
    with cluster.primary.connect("a.db") as app:
        app.sql("INSERT INTO t VALUES('then')")
        agree(cluster)
    for node in cluster.nodes:
        config = str(node.config_path)
        assert litemq("verify", "--config", config).code == 0
        copy = directory / f"{node.name}.db"
        assert litemq("export", "--config", config, "a.db", str(copy)).code == 0
        with SqlProcess(copy) as exported:
            assert exported.one("SELECT count(*) FROM t") == 1201


@pytest.mark.parametrize("mode", ["wal", pytest.param("delete", marks=pytest.mark.torture)])
def test_log_writer_when_it_is_killed_meanwhile_then_the_next_one_completes(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """Before it, in the middle, and just behind it."""
    cluster = new_cluster()
    primary = cluster.primary
    primary.announce(*DIED)
    growing = primary.data_dir / "files" / ("a.db-wal" if mode == "wal" else "a.db")
    with database(cluster, mode) as app:
        for moment in ("before", "within", "behind"):
            log_writer = primary.actor("log_writer").pid
            anew = len(primary.logged(ANEW))
            written = growing.stat().st_mtime_ns
            app.start("sql", GROW, [900])
            if moment == "within":
                eventually(lambda written=written: growing.stat().st_mtime_ns != written)
            elif moment == "behind":
                eventually(lambda anew=anew: len(primary.logged(ANEW)) > anew)
            os.kill(log_writer, signal.SIGKILL)
            app.finish()
            app.sql("INSERT INTO t VALUES('then')")
            agree(cluster)


# it takes long: with write-back in `make test-write-back`
@pytest.mark.caches(False)
def test_replica_when_huge_transactions_come_during_its_repair_then_it_arrives(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Each begins the log anew; what it changes is sent again, and no more."""
    cluster = new_cluster()
    with database(cluster, "wal") as app:
        grow(app, 150)
        agree(cluster)
        replica = cluster.replicas[0]
        replica.stop()
        grow(app, 150)
        app.start(
            "repeat",
            "INSERT INTO t SELECT randomblob(1000) || zeroblob(99000) FROM t LIMIT 700",
            6,
        )
        replica.start(ready=False)
        app.finish()
        agree(cluster)
        assert not replica.logged("refused a transfer")


def test_primary_when_it_is_killed_behind_a_huge_transaction_then_it_goes_on(
    new_cluster: Callable[..., Cluster], write_back: bool
) -> None:
    """Its log has no record of it, and its file has, or what SQLite's recovery leaves of it."""
    cluster = new_cluster()
    primary = cluster.primary
    primary.announce("the mount of a dead")
    cluster.replicas[0].announce("the primary is silent")
    for mode in ("delete", "wal"):
        with database(cluster, mode) if mode == "delete" else primary.connect("a.db") as app:
            app.script(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=FULL")
            grow(app, 100)
            agree(cluster)
        primary.kill()
        primary.start()
        with primary.connect("a.db") as app:
            assert app.sql("PRAGMA integrity_check") == [("ok",)]
            app.sql("INSERT INTO t VALUES('then')")
        agree(cluster)


def test_wal_when_more_of_it_waits_than_the_log_may_grow_to_then_it_comes_as_one_transaction(
    new_cluster: Callable[..., Cluster],
) -> None:
    """The log writer was away, and then the node was killed: what retention would delete at once is
    not written first. Nothing is lost, and the memory is as for one record."""
    cluster = new_cluster(
        sections={"retention": {"bytes": "1MiB"}, "supervisor": {"hung-after": "1h"}}
    )
    primary, (replica,) = cluster.primary, cluster.replicas
    primary.announce(*DIED)
    replica.announce("the primary is silent")
    with database(cluster, "wal") as app:
        app.script("PRAGMA wal_autocheckpoint=0", "PRAGMA synchronous=FULL")
        agree(cluster)
        primary.kill_actor("log_writer", signal.SIGSTOP)
        for _ in range(8):
            grow(app, 9)
        rows = app.one("SELECT count(*) FROM t")
        primary.kill()
        app.kill()
    before = len(primary.logged(ANEW))
    primary.start()
    assert len(primary.logged(ANEW)) == before + 1
    assert peak(primary, "log_writer") < MEMORY
    with primary.connect("a.db", timeout_s=60) as app:
        assert app.one("SELECT count(*) FROM t") == rows
        agree(cluster)
        grow(app, 1)
        agree(cluster)
