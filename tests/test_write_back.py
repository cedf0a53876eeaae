"""Where the kernel caches what programs write: what is in the log, and what a kill does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nodes import Cluster, Node
from sql_process import SqlError, SqlProcess
from tools import succeed
from waiting import eventually

pytestmark = pytest.mark.fuse

#: commits rows to PATH from now on, a line each, until it is refused; then it says why
WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA synchronous=NORMAL")
number = db.execute("SELECT coalesce(max(x), 0) FROM t").fetchone()[0]
try:
    while True:
        number += 1
        db.execute("INSERT INTO t VALUES(?)", (number,))
        os.write(1, b"%d\\n" % number)
except sqlite3.Error as error:
    os.write(2, str(error).encode())
"""


@contextmanager
def writing(cluster: Cluster, acks: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The writer, once it has written a lot."""
    with acks.open("wb") as out:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(cluster.primary.mount / "a.db")],
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=cluster.directory,
        )
    try:
        eventually(lambda: acks.stat().st_size > 20_000, what="the writer writes")
        yield writer
    finally:
        writer.kill()
        writer.wait()


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(sections={"mount": {"write-back": True}})


def table(cluster: Cluster, mode: str = "wal", synchronous: str = "NORMAL") -> SqlProcess:
    app = cluster.primary.connect("a.db")
    app.script(f"PRAGMA journal_mode={mode}", f"PRAGMA synchronous={synchronous}")
    app.script("CREATE TABLE t(x)")
    return app


def fill(app: SqlProcess, rows: int) -> None:
    app.ask("repeat", "INSERT INTO t VALUES(1)", rows)


def arrived(node: Node, rows: int) -> bool:
    with node.connect("a.db") as reader:
        # before the table is there that is an error
        return bool(reader.ask("attempt", "SELECT count(*) FROM t", []) == ["rows", [[rows]]])


def behind(cluster: Cluster, name: str) -> Path:
    """The backing file of a name in the primary's mount."""
    return cluster.primary.data_dir / "files" / name


def test_commit_when_it_is_not_synced_then_replicas_have_it_before_the_disk(
    cluster: Cluster,
) -> None:
    """It is taken from the kernel's memory: of its frames nothing has come to the FUSE actor."""
    (replica,) = cluster.replicas
    with table(cluster) as app:
        cluster.agree("a.db")
        before = behind(cluster, "a.db-wal").stat().st_size
        fill(app, 50)

        eventually(lambda: arrived(replica, 50), what="the replica has them")
        assert behind(cluster, "a.db-wal").stat().st_size == before


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist", "memory", "off"])
def test_commit_when_it_is_never_synced_then_it_arrives_while_the_program_goes_on(
    cluster: Cluster, mode: str
) -> None:
    """With synchronous=OFF nothing but the log writer asks the kernel for the pages."""
    with table(cluster, mode, "OFF") as app:
        for _ in range(3):
            fill(app, 20)
            cluster.agree("a.db")
        if mode == "wal":
            app.sql("PRAGMA wal_autocheckpoint=2")
        fill(app, 300)
        cluster.agree("a.db")
    cluster.agree("a.db")


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL"])
def test_fuse_actor_when_killed_then_nothing_is_lost_and_programs_open_the_file_anew(
    cluster: Cluster, synchronous: str
) -> None:
    """The kernel's cache outlives it, and nobody can commit to that any more."""
    primary = cluster.primary
    primary.announce("actor ended")
    with table(cluster, synchronous=synchronous) as app:
        for number in range(3):
            cluster.agree("a.db")  # the log writer has its WAL open
            fill(app, 100)
            primary.kill_actor("fuse_capture")
            eventually(lambda n=number: len(primary.logged("mounted")) == n + 2, what="the mount")
            with pytest.raises(SqlError, match=r"unable to open database file|disk I/O error"):
                fill(app, 5000)
            app.disconnect()
            app.open(primary.mount / "a.db")
            app.script(f"PRAGMA synchronous={synchronous}")
            assert app.one("SELECT count(*) FROM t") == 100 * (number + 1)
        assert not primary.logged("had changed without its log")
        cluster.agree("a.db")


def test_fuse_actor_when_killed_under_load_then_every_row_that_was_told_of_is_kept(
    cluster: Cluster,
) -> None:
    """The log writer looks for the last time at a mount that has died, and lives on."""
    primary = cluster.primary
    primary.announce("actor ended")
    table(cluster).close()
    cluster.agree("a.db")
    acks = cluster.directory / "acks"
    for number in range(3):
        log_writer = primary.actor("log_writer").pid
        with primary.connect("a.db") as reader:
            assert reader.one("SELECT count(*) >= 0 FROM t")
            with writing(cluster, acks) as writer:
                primary.kill_actor("fuse_capture")
                _, error = writer.communicate(timeout=60)
            assert error in (b"disk I/O error", b"unable to open database file")
            looks = eventually(lambda n=number: primary.logged("sealed the WAL")[n:], what="a look")
            assert looks[0]["unless"] == ""
            with pytest.raises(SqlError, match="unable to open database file"):
                reader.sql("SELECT count(*) FROM t")
        primary.wait_ready()
        assert primary.actor("log_writer").pid == log_writer
        told = int(acks.read_text().split()[-1])
        with primary.connect("a.db") as app:
            assert app.one("SELECT max(x) FROM t") in (told, told + 1)
        cluster.agree("a.db")


def test_node_when_killed_then_the_database_is_brought_forward_to_its_log(
    cluster: Cluster,
) -> None:
    """Replicas have what the file has not: it is not taken back."""
    primary, (replica,) = cluster.primary, cluster.replicas
    replica.announce("the primary is silent")
    with table(cluster) as app:
        fill(app, 100)
        app.sql("PRAGMA wal_checkpoint")
        fill(app, 100)
        fill(app, 100)
        app.sql("INSERT INTO t VALUES(hex(zeroblob(100000)))")
        eventually(lambda: arrived(replica, 301), what="the replica has all")
        before = replica.position("a.db")
        # whoever dies with the node closes its files, and the kernel would write them
        primary.kill_actor("fuse_capture", signal.SIGSTOP)
        primary.kill()
        app.kill()
    primary.start()
    assert primary.logged("brought forward")
    with primary.connect("a.db") as app:
        assert app.one("SELECT count(*) FROM t") == 301
        assert app.one("PRAGMA integrity_check") == "ok"
    # SQLite's bookkeeping on page 1
    assert before is not None
    assert cluster.agree("a.db").txid <= before.txid + 1
    with primary.connect("a.db") as app:
        fill(app, 10)
        cluster.agree("a.db")


def test_node_when_killed_under_load_then_what_replicas_had_is_kept(cluster: Cluster) -> None:
    """The writer goes on in the dead mount until it is refused; that is lost, and no more."""
    primary, (replica,) = cluster.primary, cluster.replicas
    primary.announce("torn tail")
    replica.announce("the primary is silent")
    table(cluster).close()
    for _ in range(3):
        with writing(cluster, cluster.directory / "acks") as writer:
            primary.kill()
            _, error = writer.communicate(timeout=60)
        assert error in (b"disk I/O error", b"unable to open database file")
        with replica.connect("a.db") as reader:
            seen = reader.one("SELECT max(x) FROM t")
        primary.start()
        with primary.connect("a.db") as app:
            rows = app.one("SELECT max(x) FROM t")
            assert rows >= seen
            assert app.one("SELECT count(*) FROM t") == rows
        cluster.agree("a.db")


@pytest.mark.parametrize("mode", ["persist", "delete"])
def test_transaction_when_its_locks_do_not_show_then_its_journal_does_though_only_cached(
    cluster: Cluster, mode: str
) -> None:
    """Of a program that takes none, or that failed to commit, the kernel alone has the journal."""
    with table(cluster, mode) as app:
        app.sql(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) "
            "INSERT INTO t SELECT randomblob(3000) FROM n"
        )
    before = cluster.agree("a.db")
    path = f"file:{cluster.primary.mount / 'a.db'}?nolock=1"
    with SqlProcess(path, uri=True) as app:
        app.script(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=OFF", "PRAGMA cache_size=2")
        app.sql("BEGIN")
        for _ in range(8):
            app.sql("UPDATE t SET x = randomblob(3000)")
            time.sleep(0.1)
            assert cluster.primary.position("a.db") == before
        app.sql("ROLLBACK")
    with cluster.primary.connect("a.db") as app:
        fill(app, 1)
        assert app.one("SELECT count(*) FROM t") == 201
    cluster.agree("a.db")


def test_node_when_stopped_while_a_program_writes_then_every_row_it_was_told_of_is_kept(
    cluster: Cluster,
) -> None:
    """Its WAL is sealed: it can't go on where nobody looks."""
    primary, (replica,) = cluster.primary, cluster.replicas
    replica.announce("the primary is silent")
    table(cluster).close()
    acks = cluster.directory / "acks"
    with writing(cluster, acks) as writer:
        primary.stop()
        _, error = writer.communicate(timeout=60)
    assert error == b"unable to open database file"
    told = int(acks.read_text().split()[-1])
    with replica.connect("a.db") as reader:
        assert reader.one("SELECT max(x) FROM t") == told
    primary.start()
    with primary.connect("a.db") as app:
        assert app.one("SELECT max(x) FROM t") == told
    cluster.agree("a.db")


def test_log_writer_when_killed_then_it_goes_on_in_the_middle_of_a_wal(
    new_cluster: Callable[..., Cluster],
) -> None:
    """With and without checkpoints while it is away."""
    cluster = new_cluster(
        sections={"mount": {"write-back": True}, "supervisor": {"crash-limit": 100}}
    )
    primary = cluster.primary
    primary.announce("actor ended")
    with table(cluster) as app:
        app.script("PRAGMA wal_autocheckpoint=50")
        for synchronous in ("NORMAL", "OFF"):
            app.script(f"PRAGMA synchronous={synchronous}")
            for _ in range(3):
                fill(app, 30)
                killed = primary.kill_actor("log_writer")
                fill(app, 200)
                eventually(lambda k=killed: primary.actor("log_writer").pid != k)
                fill(app, 30)
                cluster.agree("a.db")
                assert not primary.logged("had changed without its log")


def test_sync_of_the_mount_when_sqlite_has_deleted_files_then_it_succeeds(
    cluster: Cluster,
) -> None:
    """The kernel tells when a file was written last, also of one that is gone by then."""
    mount = cluster.primary.mount
    for mode in ("DELETE", "WAL"):
        with cluster.primary.connect("a.db") as app:
            app.script(f"PRAGMA journal_mode={mode}", f"CREATE TABLE {mode}_t(x)")
        succeed("sync", "--file-system", ".", directory=mount)
    (mount / "a.db").unlink()
    succeed("sync", "--file-system", ".", directory=mount)
