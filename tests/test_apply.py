"""Readers on a replica: whole transactions, kept snapshots, and nobody but the applier writes."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable

import pytest
from nodes import Cluster, Node
from sql_process import SqlError, SqlProcess
from tools import fail, run, succeed
from waiting import eventually

pytestmark = pytest.mark.fuse

MODES = ("wal", "delete", "truncate", "persist")
ACCOUNTS = 20
TOTAL = ACCOUNTS * 1000


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """A primary, a replica with a mount and one with plain files."""
    return new_shared_cluster(replicas=1, plain=1)


def create(cluster: Cluster, name: str, mode: str) -> SqlProcess:
    app = cluster.primary.connect(name)
    app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)", "INSERT INTO t VALUES(0)")
    cluster.agree(name)
    return app


# --- readers


def test_reader_when_its_transaction_is_long_then_it_keeps_its_snapshot(shared: Cluster) -> None:
    """In WAL mode, replication goes on meanwhile; others see what is new."""
    with create(shared, "long.db", "wal") as app:
        readers = [replica.connect("long.db") for replica in shared.replicas]
        for reader in readers:
            reader.sql("BEGIN")
            assert reader.one("SELECT count(*) FROM t") == 1
        for number in range(200):
            app.sql("INSERT INTO t VALUES(?)", number)
        app.script("PRAGMA wal_checkpoint(TRUNCATE)", "CREATE TABLE u(y)", "VACUUM")
        app.sql("INSERT INTO t VALUES(hex(zeroblob(3000000)))")
        shared.agree("long.db")
        for reader in readers:
            assert reader.one("SELECT count(*) FROM t") == 1
            reader.sql("COMMIT")
            assert reader.one("SELECT count(*) FROM t") == 202
            assert reader.one("PRAGMA integrity_check") == "ok"
            reader.close()


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
def test_reader_when_it_holds_a_rollback_mode_database_then_the_rest_goes_on(
    shared: Cluster, mode: str
) -> None:
    """SQLite lets nobody write while it reads there; other databases do not wait for it."""
    held, other = f"held-{mode}.db", f"free-{mode}.db"
    with create(shared, held, mode) as app, create(shared, other, mode) as free:
        readers = [replica.connect(held) for replica in shared.replicas]
        for reader in readers:
            reader.script("BEGIN", "SELECT * FROM t")
        for number in range(20):
            app.sql("INSERT INTO t VALUES(?)", number)
            free.sql("INSERT INTO t VALUES(?)", number)
        shared.agree(other)
        for replica, reader in zip(shared.replicas, readers, strict=True):
            blocked = eventually(
                lambda replica=replica: state_of(replica, held),
                until=("blocked", f"process {reader.pid}"),
                what="status names the program that is in the way",
            )
            assert blocked
            assert reader.one("SELECT count(*) FROM t") == 1
            reader.sql("COMMIT")
            reader.close()
        shared.agree(held)


def state_of(node: Node, database: str) -> tuple[str, str]:
    """As `status` shows it, and why."""
    status = node.status()
    assert status is not None
    ((state, reason),) = [(d.state, d.reason) for d in status.databases if d.name == database]
    return state, reason.partition(" (")[0]


#: short transactions, for ever; several such programs leave no moment between them
READER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
while True:
    db.execute("BEGIN")
    db.execute("SELECT count(*) FROM t").fetchone()
    time.sleep(0.01)
    db.execute("COMMIT")
"""


def test_readers_when_they_overlap_then_a_rollback_mode_database_is_still_applied(
    shared: Cluster,
) -> None:
    """There is always one that reads; the applier has to keep new ones out for a moment."""
    with shared.primary.connect("overlap.db") as app:
        app.script("CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
        shared.agree("overlap.db")
        programs = [
            subprocess.Popen([sys.executable, "-c", READER, str(replica.mount / "overlap.db")])
            for replica in shared.replicas
            for _ in range(4)
        ]
        try:
            for _ in range(3):
                app.sql("INSERT INTO t VALUES(2)")
                shared.agree("overlap.db")
            assert [each.poll() for each in programs] == [None] * len(programs)
        finally:
            for each in programs:
                each.kill()
                each.wait()


def test_reader_when_the_journal_mode_changes_then_it_reads_on(shared: Cluster) -> None:
    """WAL to DELETE and back, with connections open on the replicas."""
    with create(shared, "modes.db", "wal") as app:
        readers = [replica.connect("modes.db") for replica in shared.replicas]
        for number, mode in enumerate(("delete", "wal", "persist", "wal", "truncate"), 2):
            for reader in readers:
                assert reader.one("SELECT count(*) FROM t") >= 1
            app.script(f"PRAGMA journal_mode={mode}", "INSERT INTO t VALUES(1)")
            for reader in readers:
                eventually(
                    lambda reader=reader: reader.one("SELECT count(*) FROM t"),
                    until=number,
                    what=f"the row written in {mode} mode arrives",
                )
        for reader in readers:
            reader.close()
        shared.agree("modes.db")


def test_schema_when_it_changes_then_prepared_readers_see_the_new_one(shared: Cluster) -> None:
    """Tables made, altered and dropped under open connections."""
    with create(shared, "schema.db", "wal") as app:
        readers = [replica.connect("schema.db") for replica in shared.replicas]
        for reader in readers:
            reader.sql("SELECT * FROM t")
        for number in range(10):
            app.script(
                f"CREATE TABLE new{number}(a, b DEFAULT {number})",
                f"ALTER TABLE t ADD COLUMN c{number} DEFAULT {number}",
                f"INSERT INTO new{number}(a) VALUES(1)",
            )
            if number:
                app.sql(f"DROP TABLE new{number - 1}")
            shared.agree("schema.db")
            for reader in readers:
                assert reader.one(f"SELECT b FROM new{number}") == number
                assert len(reader.sql("SELECT * FROM t")[0]) == number + 2
        for reader in readers:
            reader.close()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_readers_when_a_bank_is_at_work_then_they_see_only_whole_transactions(
    shared: Cluster, mode: str
) -> None:
    """The sum never changes, each reader's transfers only grow, on every replica."""
    name = f"bank-{mode}.db"
    with shared.primary.connect(name) as app:
        app.script(
            f"PRAGMA journal_mode={mode}",
            "PRAGMA page_size=512",
            "CREATE TABLE account(id INTEGER PRIMARY KEY, balance, pad)",
            "CREATE TABLE transfer(id INTEGER PRIMARY KEY, n)",
            "INSERT INTO transfer VALUES(1, 0)",
            f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT {ACCOUNTS}) "
            "INSERT INTO account SELECT x, 1000, hex(zeroblob(300)) FROM c",
            # one statement that moves money touches pages far apart, and counts itself
            "CREATE TRIGGER moved AFTER UPDATE OF n ON transfer BEGIN "
            f"UPDATE account SET balance = balance - 7 WHERE id = 1 + new.n % {ACCOUNTS};"
            f"UPDATE account SET balance = balance + 7 WHERE id = 1 + new.n * 7 % {ACCOUNTS};"
            "END",
        )
        shared.agree(name)
        app.start("repeat", "UPDATE transfer SET n = n + 1", 1500)
        readers = [
            replica.connect(name, timeout_s=30) for replica in shared.replicas for _ in range(2)
        ]
        question = "SELECT (SELECT sum(balance) FROM account), (SELECT n FROM transfer)"
        seen = [0] * len(readers)
        while min(seen) < 1500:
            for number, reader in enumerate(readers):
                ((total, transfers),) = reader.sql(question)
                assert total == TOTAL
                assert transfers >= seen[number], "time runs backwards"
                seen[number] = transfers
        assert app.finish() == 1500
        for reader in readers:
            reader.close()
        shared.agree(name)


# --- writers


def refuse(node: Node, name: str, *before: str) -> None:
    """A write on the replica fails with the words people know."""
    with node.connect(name) as app:
        for statement in before:
            app.sql(statement)
        with pytest.raises(SqlError, match="attempt to write a readonly database"):
            app.sql("INSERT INTO t VALUES(666)")
        assert app.one("SELECT count(*) FROM t") == 1


@pytest.mark.parametrize("mode", MODES)
def test_write_when_on_a_replica_then_it_says_readonly_database(shared: Cluster, mode: str) -> None:
    """In every journal mode: at once, after a read, in a transaction, whatever the statement."""
    name = f"write-{mode}.db"
    replica = shared.replicas[0]
    with create(shared, name, mode):
        refuse(replica, name)
        refuse(replica, name, "SELECT * FROM t")
        for begin in ("BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
            refuse(replica, name, begin)
        with replica.connect(name) as app:
            for statement in ("VACUUM", "PRAGMA user_version=7", "DROP TABLE t"):
                with pytest.raises(SqlError, match="attempt to write a readonly database"):
                    app.sql(statement)
        shared.agree(name)


def test_database_when_made_on_a_replica_then_it_is_refused(shared: Cluster) -> None:
    """Nothing new can be created there."""
    replica = shared.replicas[0]
    with (
        pytest.raises(SqlError, match=r"unable to open database file|readonly"),
        SqlProcess(replica.mount / "mine.db") as app,
    ):
        app.sql("CREATE TABLE t(x)")
    assert "mine.db" not in replica.hands.ask("listing", str(replica.mount))


def test_tools_when_they_write_on_a_replica_then_they_get_a_clean_error(shared: Cluster) -> None:
    """cp, rm, mv, touch, truncate, dd, chmod and an editor's way of saving."""
    mount = shared.replicas[0].mount
    with create(shared, "tools.db", "wal"):
        before = shared.agree("tools.db")
        for words in (
            ("cp", "/bin/true", "tools.db"),
            ("cp", "/bin/true", "new"),
            ("rm", "-f", "tools.db"),
            ("rm", "-f", "tools.db-wal"),
            ("mv", "tools.db", "other.db"),
            ("touch", "new"),
            ("truncate", "-s", "0", "tools.db"),
            ("dd", "if=/dev/zero", "of=tools.db", "bs=1", "count=1", "conv=notrunc"),
            ("chmod", "777", "tools.db"),
            ("sh", "-c", "echo x >> tools.db"),
        ):
            message = fail(*words, directory=mount)
            assert any(
                words in message
                for words in ("Permission denied", "Read-only file system", "not permitted")
            ), f"{words}: {message}"
        copy = shared.directory / "copied.db"
        succeed("cp", "tools.db", copy, directory=mount)
        assert run("ls", "-l", "tools.db", directory=mount).returncode == 0
        assert shared.agree("tools.db") == before


def test_plain_files_when_listed_then_nobody_may_write_them(shared: Cluster) -> None:
    """A replica without FUSE keeps databases at mode 0444."""
    plain = shared.replicas[1]
    for mode in MODES:
        with create(shared, f"plain-{mode}.db", mode):
            file = plain.mount / f"plain-{mode}.db"
            assert stat.S_IMODE(file.stat().st_mode) == 0o444
