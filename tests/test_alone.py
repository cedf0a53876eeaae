"""A program that is alone on its database, and does not wait for locks: it never meets ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from nodes import Cluster
from sql_process import SqlError, SqlProcess
from tools import succeed

pytestmark = [pytest.mark.fuse, pytest.mark.caches]

ROUNDS = 30
PARTS = ("", "-wal")


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """A primary with a replica."""
    return new_shared_cluster(replicas=1)


class Impatient:
    """Connections without a busy timeout; what they were refused is counted."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.refused: Counter[str] = Counter()

    def connect(self) -> SqlProcess:
        return self.cluster.primary.connect(self.name, timeout_s=0)

    def run(self, app: SqlProcess, *statements: str) -> None:
        for statement in statements:
            try:
                rows = app.sql(statement)
            except SqlError as error:
                self.refused[f"{statement}: {error.message}"] += 1
            else:
                if "checkpoint" in statement and rows[0][0]:
                    self.refused[f"{statement}: busy"] += 1

    def check(self) -> None:
        assert not self.refused
        self.cluster.agree(self.name)


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "memory", "off"])
def test_transactions_when_their_program_is_alone_then_none_finds_a_lock(
    shared: Cluster, mode: str
) -> None:
    """Each right behind the one before, which may have to be compared."""
    alone = Impatient(shared, f"alone-{mode}.db")
    with alone.connect() as app:
        alone.run(app, f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
        for _ in range(ROUNDS):
            alone.run(app, "BEGIN EXCLUSIVE", "INSERT INTO t VALUES(1)", "COMMIT")
            alone.run(app, "INSERT INTO t VALUES(zeroblob(9000))")
    alone.check()


@pytest.mark.parametrize("mode", ["memory", "off"])
def test_transactions_when_no_file_has_their_journal_then_each_is_logged(
    shared: Cluster, mode: str
) -> None:
    """They end by a sync, and no comparison has to find a moment between them."""
    name = f"each-{mode}.db"
    with shared.primary.connect(name) as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
        before = shared.agree(name)
        app.ask("repeat", "INSERT INTO t VALUES(1)", ROUNDS)
        assert shared.agree(name).txid - before.txid == ROUNDS


@pytest.mark.parametrize("mode", ["memory", "off"])
def test_transaction_when_another_program_syncs_in_it_then_no_half_is_logged(
    shared: Cluster, mode: str
) -> None:
    """Its pages are in the file before it ends, for they are more than the cache may hold."""
    name, later = f"half-{mode}.db", f"later-{mode}.db"
    with shared.primary.connect(name) as app, shared.primary.connect(later) as other:
        other.script("CREATE TABLE t(x)")
        app.script(f"PRAGMA journal_mode={mode}", "PRAGMA cache_size=2", "CREATE TABLE t(x)")
        app.sql(
            "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
            "INSERT INTO t SELECT zeroblob(3000) FROM n"
        )
        before = shared.agree(name)
        for number in range(1, 6):
            app.script("BEGIN", "UPDATE t SET x = randomblob(3000)")
            succeed("sync", name, directory=shared.primary.mount)
            other.script("INSERT INTO t VALUES(1)")
            shared.agree(later)  # and so what was handed over before it is in the log
            position = shared.primary.position(name)
            assert position is not None
            assert position.txid == before.txid + number - 1
            app.sql("COMMIT")
            assert shared.agree(name).txid == before.txid + number


def test_wal_mode_when_entered_and_left_beside_an_idle_connection_then_no_lock_is_found(
    shared: Cluster,
) -> None:
    """With a VACUUM in between, and commits right before each change."""
    alone = Impatient(shared, "modes.db")
    with alone.connect() as app, alone.connect() as idle:
        alone.run(app, "CREATE TABLE t(x)")
        for _ in range(ROUNDS):
            alone.run(app, "PRAGMA journal_mode=WAL", "VACUUM", "PRAGMA journal_mode=DELETE")
            alone.run(app, "INSERT INTO t VALUES(1)")
            alone.run(idle, "SELECT count(*) FROM t")
    alone.check()


def test_connection_when_closed_right_behind_its_commit_then_its_wal_is_gone(
    shared: Cluster,
) -> None:
    """SQLite deletes it at the last close if nobody has a lock."""
    alone = Impatient(shared, "closed.db")
    left = 0
    app = SqlProcess()
    for _ in range(ROUNDS):
        app.open(shared.primary.mount / alone.name, timeout_s=0)
        alone.run(app, "PRAGMA journal_mode=WAL", "CREATE TABLE IF NOT EXISTS t(x)")
        alone.run(app, "INSERT INTO t VALUES(1)")
        app.disconnect()
        left += f"{alone.name}-wal" in app.ask("listing", str(shared.primary.mount))
    app.close()
    assert not left
    alone.check()


def test_checkpoint_when_it_truncates_then_it_is_not_busy_and_the_wal_is_empty(
    shared: Cluster,
) -> None:
    """Right behind each commit."""
    alone = Impatient(shared, "cut.db")
    with alone.connect() as app:
        alone.run(app, "PRAGMA journal_mode=WAL", "CREATE TABLE t(x)")
        for _ in range(ROUNDS):
            alone.run(app, "INSERT INTO t VALUES(zeroblob(5000))")
            alone.run(app, "PRAGMA wal_checkpoint(TRUNCATE)")
            assert app.ask("size", str(shared.primary.mount / f"{alone.name}-wal")) == 0
    alone.check()


def test_wal_when_copied_to_another_name_then_the_copy_has_all_rows(shared: Cluster) -> None:
    """Right behind a commit; every other time also over the copy that was just made."""
    alone, copied = Impatient(shared, "source.db"), Impatient(shared, "copy.db")
    mount = shared.primary.mount
    with alone.connect() as app, SqlProcess() as reader:
        alone.run(app, "PRAGMA journal_mode=WAL", "CREATE TABLE t(x)")
        for number in range(1, ROUNDS + 1):
            alone.run(app, "INSERT INTO t VALUES(zeroblob(3000))")
            for _ in range(1 + number % 2):
                for part in PARTS:
                    succeed("cp", f"{alone.name}{part}", f"{copied.name}{part}", directory=mount)
            reader.open(mount / copied.name, timeout_s=0)
            assert reader.one("SELECT count(*) FROM t") == number
            reader.disconnect()
    alone.check()
    copied.check()


def test_databases_when_swapped_under_exclusive_locks_then_each_has_all_rows(
    shared: Cluster,
) -> None:
    """With their WALs, by names; whoever had them open is killed, and nobody made a checkpoint."""
    mount = shared.primary.mount
    rows = {"one.db": 6, "two.db": 2}
    names = list(rows)
    for _ in range(max(1, ROUNDS // 10)):
        holders = [Impatient(shared, name).connect() for name in names]
        for holder, name in zip(holders, names, strict=True):
            holder.script(
                "PRAGMA journal_mode=WAL",
                "PRAGMA locking_mode=EXCLUSIVE",
                "DROP TABLE IF EXISTS t",
                "CREATE TABLE t(x)",
                *["INSERT INTO t VALUES(1)"] * rows[name],
            )
        for old, new in (("one.db", "kept.db"), ("two.db", "one.db"), ("kept.db", "two.db")):
            for part in PARTS:
                succeed("mv", f"{old}{part}", f"{new}{part}", directory=mount)
        for holder in holders:
            holder.kill()
        for name, other in zip(names, reversed(names), strict=True):
            with Impatient(shared, name).connect() as app:
                assert app.one("SELECT count(*) FROM t") == rows[other], name
                assert app.sql("PRAGMA integrity_check") == [("ok",)]
            shared.agree(name)
        rows = dict(zip(names, reversed(rows.values()), strict=True))
        for name in names:
            with shared.primary.connect(name) as app:
                app.script("PRAGMA journal_mode=DELETE")
                rows[name] = 6 if name == "one.db" else 2
