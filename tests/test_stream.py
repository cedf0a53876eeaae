"""Every replica ends with the primary's pages: late, stopped, long away, tampered with, or deaf."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from leftovers import processes_below
from nodes import Cluster, Node
from sql_process import SqlProcess
from tools import succeed
from waiting import eventually

from litemq.config import load
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Sender
from litemq.txlog.segment_reader import SegmentReader

pytestmark = pytest.mark.fuse

REPAIRED = "somebody else|repairing|repair"
#: segments this small are closed at once, and given up soon
FORGETFUL = {"retention": {"age": "100ms", "bytes": "4KiB", "segment-bytes": "4KiB"}}


def fill(app: SqlProcess, rows: int, size: int = 100) -> None:
    """One transaction of so many rows."""
    app.sql(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT ?) "
        "INSERT INTO t SELECT x, hex(zeroblob(?)) FROM c",
        rows,
        size // 2,
    )


def create(cluster: Cluster, name: str, mode: str = "wal") -> SqlProcess:
    app = cluster.primary.connect(name)
    app.script(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=OFF", "CREATE TABLE t(x, y)")
    return app


@contextmanager
def stopped(node: Node) -> Iterator[None]:
    """Every process of the node stands still, as on a machine that hangs; its sockets stay."""
    pids = [pid for pid in processes_below(node.directory) if pid != node.hands.pid]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def publisher_peak(cluster: Cluster) -> int:
    """The most memory that it has ever had (bytes)."""
    status = Path(f"/proc/{cluster.primary.actor('stream_publisher').pid}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) * 1024


# --- joining


@pytest.mark.parametrize("fuse", [True, False], ids=["mount", "plain"])
def test_replica_when_it_joins_late_then_it_gets_everything(
    new_cluster: Callable[..., Cluster], fuse: bool
) -> None:
    """Databases in all modes, one that nobody writes any more, one that is being written."""
    cluster = new_cluster(replicas=0)
    apps = {mode: create(cluster, f"{mode}.db", mode) for mode in ("wal", "delete", "persist")}
    for app in apps.values():
        fill(app, 3000)
        app.script("DELETE FROM t WHERE x % 2 = 0", "CREATE INDEX i ON t(y)")
    apps["wal"].start("repeat", "INSERT INTO t VALUES(1, hex(zeroblob(300)))", 1500)
    cluster.add_replica(fuse=fuse)
    assert apps["wal"].finish() == 1500
    for mode, app in apps.items():
        cluster.agree(f"{mode}.db")
        app.close()


def test_replica_when_it_is_ready_then_it_has_what_the_primary_had(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A node is not ready before it has caught up once."""
    cluster = new_cluster(replicas=0)
    with create(cluster, "a.db") as app:
        fill(app, 20000)
        position = cluster.captured("a.db")
        replica = cluster.add_replica()
        assert replica.position("a.db") == position
        with replica.connect("a.db") as reader:
            assert reader.one("SELECT count(*) FROM t") == 20000


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(lambda head: m.BarrierReached(0, [head]), id="answer"),
        pytest.param(lambda head: m.RecordsLogged(head, head.position.txid, [0]), id="records"),
    ],
)
def test_message_when_newer_records_overtake_it_then_replicas_still_hear_of_them(
    cluster: Cluster, late: Callable[[m.Head], m.Message]
) -> None:
    """A barrier is answered through a socket of its own, and each log writer has another."""
    (replica,) = cluster.replicas
    with create(cluster, "a.db") as app:
        cluster.agree("a.db")
        replica.stop()
        position = cluster.captured("a.db")
        old = m.Head("a.db", m.WirePosition.of(position), 4096, 2, 0)
        fill(app, 10)
        cluster.captured("a.db")
        records = Sender(Endpoints(load(cluster.primary.config_path).run_dir).records)
        records.send(late(old))
        records.close()
        replica.start()
        cluster.agree("a.db")


def test_replica_when_stopped_while_it_applies_then_nothing_fails(cluster: Cluster) -> None:
    """Its applier ends before its mount does."""
    (replica,) = cluster.replicas
    with create(cluster, "a.db", "delete") as app:
        for _ in range(3):
            before = replica.position("a.db")
            app.start("repeat", "INSERT INTO t VALUES(1, zeroblob(2000))", 800)
            eventually(lambda before=before: replica.position("a.db") != before)
            replica.stop()
            app.finish()
            replica.start()
            cluster.agree("a.db")


@pytest.mark.torture
def test_replica_when_heartbeats_are_rare_then_the_primary_is_not_silent_between_two(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Three of them may be lost."""
    cluster = new_cluster(sections={"stream": {"heartbeat": "4s"}})
    (replica,) = cluster.replicas
    eventually(lambda: replica.logged("^following$"), what="the first one")
    with create(cluster, "a.db") as app:
        for _ in range(5):
            time.sleep(1)
            fill(app, 1)
    cluster.agree("a.db")
    time.sleep(5)
    assert not replica.logged("silent")


def test_primary_when_restarted_then_replicas_follow_its_new_epoch(
    new_cluster: Callable[..., Cluster],
) -> None:
    """TXIDs go on, the epoch grows, and a replica needs no restart."""
    cluster = new_cluster(replicas=1, plain=1)
    for replica in cluster.replicas:
        replica.announce("the primary is silent")
    with create(cluster, "a.db") as app:
        fill(app, 10)
        before = cluster.agree("a.db")
    cluster.primary.stop()
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app:
        assert cluster.primary.position("a.db") == before
        fill(app, 10)
        after = cluster.agree("a.db")
    assert (after.epoch, after.txid) == (before.epoch + 1, before.txid + 1)


def test_replica_when_restarted_then_it_takes_only_what_it_misses(
    new_cluster: Callable[..., Cluster],
) -> None:
    """From the log, not by a repair."""
    cluster = new_cluster(replicas=1, plain=1)
    with create(cluster, "a.db") as app:
        fill(app, 1000)
        cluster.agree("a.db")
        for replica in cluster.replicas:
            replica.stop()
        for _ in range(20):
            fill(app, 10)
        for replica in cluster.replicas:
            replica.start()
        cluster.agree("a.db")
    for replica in cluster.replicas:
        assert not replica.logged("repair")
        assert not cluster.primary.logged("repairing a replica", replica=replica.name)


def test_nodes_when_killed_and_started_then_they_agree_again(
    new_cluster: Callable[..., Cluster],
) -> None:
    """kill -9 of every supervisor while a writer is at work."""
    cluster = new_cluster(replicas=1, plain=1)
    for mode in ("wal", "delete"):
        create(cluster, f"{mode}.db", mode).close()
    writers = [cluster.primary.connect(f"{mode}.db") for mode in ("wal", "delete")]
    for writer in writers:
        writer.start("repeat", "INSERT INTO t SELECT count(*), 'x' FROM t", 100000)
    eventually(
        lambda: all((cluster.primary.position(f"{m}.db") or 0).txid > 30 for m in ("wal", "delete"))
    )
    for node in cluster.nodes:
        node.announce("the primary is silent", "had changed without its log", "stale", REPAIRED)
        node.kill()
    for writer in writers:
        writer.kill()
    cluster.start()
    for mode in ("wal", "delete"):
        with cluster.primary.connect(f"{mode}.db") as app:
            app.sql("SELECT count(*) FROM t")  # rolls back what the killed writer left half done
        cluster.agree(f"{mode}.db")
        with cluster.primary.connect(f"{mode}.db") as app:
            assert app.one("PRAGMA integrity_check") == "ok"
            assert app.sql("SELECT x FROM t ORDER BY rowid") == [
                (number,) for number in range(app.one("SELECT count(*) FROM t"))
            ]
            fill(app, 5)
        cluster.agree(f"{mode}.db")


# --- gaps


def test_replica_when_it_stood_still_for_thousands_of_transactions_then_it_catches_up(
    new_cluster: Callable[..., Cluster], write_back: bool
) -> None:
    """Its queue overflows, messages are dropped, the gap is noticed and filled from the log."""
    cluster = new_cluster(replicas=2, sections={"stream": {"hwm": 10}})
    for replica in cluster.replicas:
        replica.announce("the primary is silent", "no sign of life", "actor ended")
    with create(cluster, "a.db") as app:
        if write_back:  # behind a writer that never syncs, most commits are merged
            app.sql("PRAGMA synchronous=FULL")
        cluster.agree("a.db")
        with stopped(cluster.replicas[0]):
            for _ in range(4):
                app.ask("repeat", "INSERT INTO t VALUES(1, hex(zeroblob(3000)))", 1000)
            eventually(
                lambda: cluster.replicas[1].position("a.db"),
                until=cluster.captured("a.db"),
                what="the other replica is not held up",
            )
        # and some behind one that does
        assert cluster.agree("a.db", timeout_s=60).txid > (1000 if write_back else 4000)
        fill(app, 10)
        cluster.agree("a.db")
    assert not cluster.replicas[0].logged("repaired")


def test_burst_when_larger_than_what_a_replica_keeps_in_memory_then_nothing_is_skipped(
    new_cluster: Callable[..., Cluster],
) -> None:
    """What did not fit is read from its log again, in order, while more arrives."""
    cluster = new_cluster(replicas=1, plain=1)
    for replica in cluster.replicas:
        replica.announce("the primary is silent")  # it may have no CPU for a moment
    with create(cluster, "a.db") as app:
        app.ask("repeat", "INSERT INTO t VALUES(1, randomblob(12000))", 4000)
        cluster.agree("a.db", timeout_s=60)
    for replica in cluster.replicas:
        assert not replica.logged("repair")


def test_replica_when_it_does_not_read_then_the_primary_keeps_its_memory(
    new_cluster: Callable[..., Cluster], write_back: bool
) -> None:
    """60 MB of large records go by a replica that stands still: announced only, nothing is kept."""
    cluster = new_cluster(replicas=1)
    replica = cluster.replicas[0]
    replica.announce("the primary is silent", "no sign of life", "actor ended")
    with create(cluster, "a.db") as app:
        if write_back:  # of commits that are merged each page is sent once
            app.sql("PRAGMA synchronous=FULL")
        fill(app, 1000)
        first = cluster.agree("a.db").txid
        before = publisher_peak(cluster)
        with stopped(replica):
            app.ask("repeat", "UPDATE t SET y = randomblob(1000000) WHERE rowid = 1", 60)
            sent = cluster.captured("a.db").txid - first
            assert sent >= 40 if write_back else sent == 60
            assert publisher_peak(cluster) < before + 16 * 1024 * 1024
        cluster.agree("a.db", timeout_s=60)


@pytest.mark.parametrize("fuse", [True, False], ids=["mount", "plain"])
def test_replica_when_away_longer_than_retention_then_it_is_repaired(
    new_cluster: Callable[..., Cluster], fuse: bool, write_back: bool
) -> None:
    """The log no longer reaches back: only the pages that differ travel."""
    cluster = new_cluster(replicas=0, sections=FORGETFUL)
    replica = cluster.add_replica(fuse=fuse)
    with create(cluster, "a.db") as app:
        fill(app, 20000)
        app.sql("CREATE TABLE u(x)")
        last = cluster.agree("a.db").txid
        replica.stop()
        for number in range(200):
            app.sql("INSERT INTO u VALUES(?)", number)
        kept = SegmentReader(cluster.primary.data_dir / "databases" / "a.db" / "log")
        eventually(
            lambda: kept.range()[0] > last + 1,
            timeout_s=30,
            what="the log no longer reaches back to the replica",
        )
        replica.announce(REPAIRED)
        replica.start()
        txid = cluster.agree("a.db").txid
        # where writes are cached, several commits of a fast writer are one transaction
        assert last + 1 < txid <= last + 200 if write_back else txid == last + 200
        with replica.connect("a.db") as reader:
            assert reader.one("SELECT count(*) FROM u") == 200
        (repaired,) = replica.logged("^repaired$")
        assert repaired["pages"] < 20
        app.sql("INSERT INTO u VALUES(0)")
        cluster.agree("a.db")


# --- tampering


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_plain_file_when_root_changes_it_then_it_is_found_and_repaired(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """Through SQLite, which modes do not keep root from, and past it."""
    cluster = new_cluster(replicas=0, plain=1)
    replica = cluster.replicas[0]
    with create(cluster, "a.db", mode) as app:
        fill(app, 5000)
        cluster.agree("a.db")
        replica.announce(REPAIRED)
        with replica.connect("a.db") as root:
            root.sql("UPDATE t SET y = 'tampered' WHERE x = 77")
        eventually(lambda: replica.logged("^repaired$"), what="the replica notices")
        cluster.agree("a.db")
        if mode == "delete":  # in WAL mode the page may be in the WAL as well
            with open(replica.mount / "a.db", "r+b") as file:
                file.seek(4096 * 7 + 100)
                file.write(b"tampered")
            eventually(lambda: len(replica.logged("^repaired$")) == 2, what="it notices again")
            cluster.agree("a.db")
        fill(app, 10)
        cluster.agree("a.db")


@pytest.mark.parametrize("fuse", [True, False], ids=["mount", "plain"])
def test_replica_file_when_changed_while_the_node_is_down_then_it_is_repaired(
    new_cluster: Callable[..., Cluster], fuse: bool
) -> None:
    """A byte, the end cut off, garbage all over, the file gone: each is found at the start."""
    cluster = new_cluster(replicas=0)
    replica = cluster.add_replica(fuse=fuse)
    directory = replica.data_dir / "files" if fuse else replica.mount
    names = ["byte.db", "cut.db", "garbage.db", "gone.db"]
    apps = [create(cluster, name) for name in names]
    for name, app in zip(names, apps, strict=True):
        fill(app, 2000)
        cluster.agree(name)
    replica.stop()
    replica.announce(REPAIRED, "a repair failed", "can't apply")
    with open(directory / "byte.db", "r+b") as file:
        file.seek(4096 * 9 + 50)
        file.write(b"X")
    os.truncate(directory / "cut.db", 4096 * 5)
    (directory / "garbage.db").write_bytes(os.urandom(50_000))
    os.unlink(directory / "gone.db")
    replica.start()
    for name, app in zip(names, apps, strict=True):
        cluster.agree(name)
        fill(app, 5)
        cluster.agree(name)
        app.close()


def test_primary_file_when_changed_while_the_node_is_down_then_the_change_is_logged(
    new_cluster: Callable[..., Cluster],
) -> None:
    """What is on the primary's disk is the truth; nothing there stays unreplicated."""
    cluster = new_cluster(replicas=1)
    cluster.replicas[0].announce("the primary is silent")
    with create(cluster, "a.db", "delete") as app:
        fill(app, 2000)
        before = cluster.agree("a.db")
    cluster.primary.announce("had changed without its log")
    cluster.primary.kill()
    with SqlProcess(cluster.primary.data_dir / "files" / "a.db") as outside:
        outside.sql("UPDATE t SET y = 'outside' WHERE x = 77")
    cluster.primary.start()
    assert cluster.agree("a.db").txid == before.txid + 1
    with cluster.replicas[0].connect("a.db") as reader:
        assert reader.one("SELECT y FROM t WHERE x = 77") == "outside"


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_primary_file_when_changed_after_a_clean_stop_then_the_check_finds_it_at_work(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """A clean stop's checksums are believed at the start, and checked after it."""
    cluster = new_cluster(replicas=1)
    cluster.replicas[0].announce("the primary is silent")
    with create(cluster, "a.db", mode) as app:
        fill(app, 2000)
        before = cluster.agree("a.db")
    cluster.primary.announce("had changed without its log")
    cluster.primary.stop()
    with SqlProcess(cluster.primary.data_dir / "files" / "a.db") as outside:
        outside.sql("UPDATE t SET y = 'outside' WHERE x = 77")
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app, cluster.replicas[0].connect("a.db") as reader:
        app.sql("INSERT INTO t (x, y) VALUES (9001, 'inside')")
        eventually(lambda: reader.one("SELECT y FROM t WHERE x = 77"), until="outside")
        assert reader.one("SELECT y FROM t WHERE x = 9001") == "inside"
    assert cluster.agree("a.db").txid > before.txid


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_check_when_the_database_is_at_work_then_it_finds_nothing(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """Pages in the middle of a change are none of its business."""
    cluster = new_cluster(replicas=1)
    cluster.replicas[0].announce("the primary is silent")
    with create(cluster, "a.db", mode) as app:
        fill(app, 5000)
    cluster.primary.stop()
    cluster.primary.start()

    def checked_while_at_work() -> bool:
        app.sql("UPDATE t SET y = hex(randomblob(50)) WHERE x % 10 = abs(random()) % 10")
        return bool(cluster.primary.logged("checked the files"))

    with cluster.primary.connect("a.db") as app:
        eventually(checked_while_at_work)
    cluster.agree("a.db")
    assert cluster.primary.logged("checked the files")[0]["pages"] > 100


# --- databases come and go


def test_databases_when_more_than_the_usual_limit_of_open_files_then_all_are_served(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Shells and services start programs with a soft limit that a node raises for itself."""
    cluster = new_cluster(replicas=1, start=False)
    for node in cluster.nodes:
        node.limit_open_files(128)
    cluster.start()
    names = [f"{number}.db" for number in range(40)]
    for name in names:
        with create(cluster, name) as app:
            fill(app, 1)
    for name in names:
        cluster.agree(name)


@pytest.mark.parametrize("fuse", [True, False], ids=["mount", "plain"])
def test_databases_when_made_and_dropped_while_a_replica_is_away_then_it_ends_the_same(
    new_cluster: Callable[..., Cluster], fuse: bool
) -> None:
    """Dropped, made anew under the same name, and new: all while it is down."""
    cluster = new_cluster(replicas=0)
    replica = cluster.add_replica(fuse=fuse)
    mount = cluster.primary.mount
    for name in ("dropped.db", "again.db", "kept.db"):
        with create(cluster, name) as app:
            fill(app, 100)
            cluster.agree(name)
    replica.stop()
    succeed("rm", "dropped.db", "again.db", directory=mount)
    for name in ("again.db", "new.db"):
        with create(cluster, name, "delete") as app:
            fill(app, 7)
            cluster.captured(name)
    replica.start()
    cluster.gone("dropped.db")
    for name in ("again.db", "kept.db", "new.db"):
        cluster.agree(name)
    succeed("rm", "kept.db", "new.db", directory=mount)
    cluster.gone("kept.db")
    cluster.gone("new.db")
    listed = replica.hands.ask("listing", str(replica.mount))
    assert not [name for name in listed if name.startswith(("kept", "new", "dropped"))]


def test_database_when_dropped_under_a_replica_s_reader_then_the_reader_ends_well(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A reader keeps the unlinked file; a new connection sees the new database."""
    cluster = new_cluster(replicas=1, plain=1)
    with create(cluster, "a.db") as app:
        fill(app, 50)
        cluster.agree("a.db")
    readers = [replica.connect("a.db") for replica in cluster.replicas]
    for reader in readers:
        reader.script("BEGIN", "SELECT count(*) FROM t")
    succeed("rm", "a.db", directory=cluster.primary.mount)
    with create(cluster, "a.db") as app:
        fill(app, 3)
        for reader in readers:
            assert reader.one("SELECT count(*) FROM t") == 50
        for reader in readers:
            reader.close()
        cluster.agree("a.db")


def test_many_databases_when_written_in_turn_then_all_of_them_arrive(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Fifty, in different modes, before and after a replica joins."""
    cluster = new_cluster(replicas=1)
    names = [f"many{number}.db" for number in range(50)]
    apps = []
    for number, name in enumerate(names):
        apps.append(SqlProcess(cluster.primary.mount / name) if number < 10 else apps[number % 10])
        app = apps[number]
        app.open(cluster.primary.mount / name)
        app.script(f"PRAGMA journal_mode={('wal', 'delete', 'truncate')[number % 3]}")
        app.script("CREATE TABLE t(x, y)")
        fill(app, 10 + number)
    late = cluster.add_replica(fuse=False)
    for number, name in enumerate(names):
        apps[number].open(cluster.primary.mount / name)
        fill(apps[number], 5)
    for app in apps[:10]:
        app.close()
    for replica in cluster.replicas:
        eventually(
            lambda replica=replica: [replica.position(name) for name in names],
            until=[cluster.primary.position(name) for name in names],
            what=f"{replica.name} has all of them",
        )
    for name in names[::10]:
        cluster.agree(name)
    assert len(late.status().databases) == 50
