"""Whatever reaches a database in the mount, by whatever way, reaches the log and the replicas."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from nodes import Cluster
from sql_process import SqlError, SqlProcess
from tools import fail, run, succeed
from waiting import eventually

from litemq.txlog.position import parse

pytestmark = [pytest.mark.fuse, pytest.mark.caches]

MODES = ("delete", "truncate", "persist", "memory", "off", "wal")
JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_names = (f"capture{number}.db" for number in itertools.count(1))


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    return new_shared_cluster()


@pytest.fixture
def name() -> str:
    """A database name of its own for each test."""
    return next(_names)


def native(path: Path, rows: int, mode: str = "delete") -> Path:
    """A database outside the mount."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("PRAGMA synchronous=OFF")  # thousands of syncs of a disk show nothing
        db.execute("CREATE TABLE t(x, y)")
        for number in range(rows):
            db.execute("INSERT INTO t VALUES(?, hex(zeroblob(400)))", (number,))
    return path


def rows(cluster: Cluster, name: str) -> list[int]:
    """How many rows of `t` each node shows."""
    found = []
    for node in cluster.nodes:
        with node.connect(name) as app:
            found.append(app.one("SELECT count(*) FROM t"))
    return found


def txid_in(path: Path) -> int:
    """Of a file that holds a position; 0 as long as it holds none."""
    text = path.read_text("ascii").strip() if path.exists() else ""
    return parse(text).txid if text else 0


# --- locking, modes


@pytest.mark.parametrize("mode", MODES)
def test_exclusive_locking_when_it_is_never_given_up_then_commits_are_captured(
    shared: Cluster, name: str, mode: str
) -> None:
    """Nobody else can read the file, in WAL mode there is no index: replicas get it anyway."""
    with shared.primary.connect(name) as app:
        app.script("PRAGMA locking_mode=EXCLUSIVE", f"PRAGMA journal_mode={mode}")
        app.script("CREATE TABLE t(x)", "BEGIN", "INSERT INTO t VALUES(1)", "COMMIT")
        if mode in ("memory", "off"):
            app.disconnect()  # only the end of the lock tells that a transaction has
        replica = shared.replicas[0]
        eventually(lambda: replica.position(name), what="the replica has it")

        def arrived() -> bool:
            try:
                with replica.connect(name) as reader:
                    return bool(reader.sql("SELECT * FROM t") == [(1,)])
            except SqlError:
                return False

        eventually(arrived, what="the row arrives while the lock is held")
    shared.agree(name)


@pytest.mark.parametrize("locking", ["normal", "exclusive"])
def test_spilled_transaction_when_rolled_back_in_part_then_blank_frames_are_captured(
    shared: Cluster, name: str, locking: str
) -> None:
    """SQLite leaves the header of such a frame blank; its own recovery would lose the commit."""
    text = "printf('%.900c', '{}')"
    with shared.primary.connect(name) as app:
        app.script(
            "PRAGMA page_size=1024",
            f"PRAGMA locking_mode={locking}",
            "PRAGMA journal_mode=wal",
            "PRAGMA cache_size=5",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v)",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 200) "
            f"INSERT INTO t SELECT x, {text.format('a')} FROM c",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "BEGIN",
            "INSERT INTO t VALUES(1000, 1)",
            "SAVEPOINT s",
            f"UPDATE t SET v = {text.format('b')} WHERE id <= 20",
            f"UPDATE t SET v = {text.format('c')} WHERE id BETWEEN 60 AND 190",
            f"UPDATE t SET v = {text.format('d')} WHERE id BETWEEN 60 AND 190",
            "ROLLBACK TO s",
            f"UPDATE t SET v = {text.format('e')} WHERE id <= 30",
            "COMMIT",
        )
        wal = app.ask("read", str(shared.primary.mount / f"{name}-wal"))
        assert wal[32 + 8 : 32 + 24] == bytes(16), "the first frame is not blank: no test"
        if locking == "normal":
            shared.agree(name)
        app.script("PRAGMA wal_checkpoint(TRUNCATE)", "INSERT INTO t VALUES(1001, 1)")
    shared.agree(name)


def test_write_transaction_when_it_changes_nothing_then_there_is_no_txid(
    shared: Cluster, name: str
) -> None:
    """BEGIN IMMEDIATE and COMMIT, an UPDATE to the same, a rollback: positions stay."""
    for mode in ("wal", "delete"):
        with shared.primary.connect(name) as app:
            app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE IF NOT EXISTS t(x)")
            before = shared.agree(name)
            app.script("BEGIN IMMEDIATE", "COMMIT", "BEGIN EXCLUSIVE", "ROLLBACK")
            app.script("BEGIN", "INSERT INTO t VALUES(1)", "ROLLBACK")
            if mode == "wal":  # with a journal, SQLite commits a new change counter here
                app.script("BEGIN", "SAVEPOINT s", "INSERT INTO t VALUES(1)", "ROLLBACK TO s")
                app.script("COMMIT")
            assert shared.agree(name) == before
            app.script("INSERT INTO t VALUES(2)")
            assert shared.agree(name).txid == before.txid + 1


def test_journal_when_it_has_several_segments_then_the_transaction_is_one(
    shared: Cluster, name: str
) -> None:
    """With a tiny cache and synchronous=FULL, every spill syncs the journal: a new segment."""
    with shared.primary.connect(name) as app:
        app.script("PRAGMA page_size=1024", "PRAGMA cache_size=3", "CREATE TABLE t(x, y)")
        app.sql(
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 400) "
            "INSERT INTO t SELECT x, hex(zeroblob(400)) FROM c"
        )
        before = shared.agree(name)
        app.script("BEGIN", "UPDATE t SET y = y || 'a'", "UPDATE t SET y = y || 'b'")
        journal = app.ask("read", str(shared.primary.mount / f"{name}-journal"))
        assert journal.count(JOURNAL_MAGIC) > 3
        assert shared.primary.position(name) == before
        app.sql("ROLLBACK")
        assert shared.agree(name) == before
        app.script("BEGIN", "UPDATE t SET y = y || 'a'", "DELETE FROM t WHERE x % 3 = 0", "COMMIT")
        assert shared.agree(name).txid == before.txid + 1


def test_writers_when_several_processes_write_at_once_then_all_commits_are_there(
    shared: Cluster, name: str
) -> None:
    """Each process inserts rows of its own, in WAL and in DELETE mode."""
    for mode in ("wal", "delete"):
        database = f"{mode}-{name}"
        with shared.primary.connect(database) as app:
            app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(who, x)")
        writers = [shared.primary.connect(database, timeout_s=60) for _ in range(4)]
        for writer in writers:
            writer.start("repeat", f"INSERT INTO t SELECT {writer.pid}, count(*) FROM t", 100)
        for writer in writers:
            assert writer.finish() == 100
            writer.close()
        shared.agree(database)
        assert rows(shared, database) == [400, 400]


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_writer_when_killed_in_a_transaction_then_the_next_one_goes_on(
    shared: Cluster, name: str, mode: str
) -> None:
    """A hot journal is rolled back by the next reader; frames without a commit are overwritten."""
    with shared.primary.connect(name) as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x, y)", "PRAGMA cache_size=3")
        app.script("INSERT INTO t VALUES(0, 'first')")
        before = shared.agree(name)
        app.script(
            "BEGIN",
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 500) "
            "INSERT INTO t SELECT x, hex(zeroblob(1000)) FROM c",
        )
        app.kill()
    with shared.primary.connect(name) as app:
        assert app.one("SELECT count(*) FROM t") == 1
        assert shared.agree(name) == before
        app.script("INSERT INTO t VALUES(1, 'second')")
        assert shared.agree(name).txid == before.txid + 1
        assert app.one("PRAGMA integrity_check") == "ok"


def test_journal_off_when_wal_mode_follows_then_the_order_is_kept(
    shared: Cluster, name: str
) -> None:
    """What neither journal nor WAL explains is logged late, but before what comes after it."""
    with shared.primary.connect(name) as app:
        app.script("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "CREATE TABLE t(x, y)")
        for number in range(30):
            app.script(
                f"INSERT INTO t VALUES({number}, hex(zeroblob(3000)))",
                "UPDATE t SET y = y || x",
                f"PRAGMA journal_mode={('wal', 'delete', 'truncate')[number % 3]}",
                f"INSERT INTO t VALUES({number}, 'then')",
                "DELETE FROM t WHERE x % 4 = 2",
            )
            # waits while the log writer compares the file
            assert app.ask("attempt", "PRAGMA journal_mode=OFF", [])[0] == "rows"
    shared.agree(name)
    assert not shared.replicas[0].logged("repair", db=name)


def test_journal_off_when_the_node_stops_at_once_then_nothing_is_left_behind(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A drain does not end before writes that nothing explains are in the log."""
    cluster = new_cluster()
    cluster.replicas[0].announce("the primary is silent")
    for _ in range(3):
        with cluster.primary.connect("a.db") as app:
            app.script("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF")
            app.sql("CREATE TABLE IF NOT EXISTS t(x)")
            app.sql("INSERT INTO t VALUES(hex(zeroblob(30000)))")
            cluster.primary.stop()
        cluster.primary.start()
        cluster.agree("a.db")


def test_log_writer_when_killed_as_wal_mode_begins_then_nothing_older_is_logged_again(
    new_cluster: Callable[..., Cluster],
) -> None:
    """The commit that changes the mode comes from a journal, and is acknowledged a bit later."""
    cluster = new_cluster(sections={"supervisor": {"crash-limit": 100}})
    primary = cluster.primary
    primary.announce("actor ended")
    for number in range(6):
        name = f"a{number}.db"
        shown = primary.data_dir / "databases" / name / "position"
        killed = primary.actor("log_writer").pid
        with primary.connect(name) as app:
            app.script("CREATE TABLE t(x)", "PRAGMA journal_mode=wal", "CREATE TABLE u(x)")
            # the last of these is in the log, and the second not acknowledged yet
            eventually(lambda shown=shown: txid_in(shown) >= 3, what="it is in the log")
            os.kill(killed, signal.SIGKILL)
            app.script("INSERT INTO u VALUES(1)")
            eventually(lambda k=killed: primary.actor("log_writer").pid != k, what="it is back")
            cluster.agree(name)
            with cluster.replicas[0].connect(name) as reader:
                assert reader.one("PRAGMA integrity_check") == "ok"
    # a file that differs is noticed after a while, and logged: that is not what is meant here
    assert not primary.logged("had changed without its log")


# --- files


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_cp_when_a_database_is_copied_in_then_it_is_replicated(
    shared: Cluster, tmp_path: Path, name: str, mode: str
) -> None:
    """A new name first, then over the database that is there: larger, smaller, another mode."""
    mount = shared.primary.mount
    for count in (40, 400, 3):
        source = native(tmp_path / f"{count}.db", count, mode)
        succeed("cp", source, mount / name, directory=tmp_path)
        shared.agree(name)
        assert rows(shared, name) == [count, count]
        assert shared.primary.hands.ask("read", str(mount / name)) == source.read_bytes()


def test_cp_when_half_done_then_no_replica_sees_a_half(
    shared: Cluster, tmp_path: Path, name: str
) -> None:
    """The beginning of a file is no database; it becomes one when the rest is there."""
    source = native(tmp_path / "source.db", 2000)
    target = shared.primary.mount / name
    succeed("dd", f"if={source}", f"of={target}", "bs=64k", "count=3", directory=tmp_path)
    assert shared.primary.position(name) is None
    succeed(
        "dd", f"if={source}", f"of={target}", "bs=64k", "skip=3", "seek=3", "conv=notrunc",
        directory=tmp_path,
    )  # fmt: skip
    assert shared.agree(name).txid == 1
    assert rows(shared, name) == [2000, 2000]


def test_mv_when_a_database_gets_another_name_then_the_old_one_is_dropped(
    shared: Cluster, tmp_path: Path, name: str
) -> None:
    """Into the mount, within it, over another database, and out of it."""
    mount = shared.primary.mount
    other, third = f"other-{name}", f"third-{name}"
    succeed("mv", native(tmp_path / "a", 10), mount / name, directory=tmp_path)
    shared.agree(name)
    succeed("mv", name, other, directory=mount)
    shared.gone(name)
    shared.agree(other)
    assert rows(shared, other) == [10, 10]
    succeed("cp", native(tmp_path / "b", 20), mount / third, directory=tmp_path)
    before = shared.agree(third)
    succeed("mv", other, third, directory=mount)
    shared.gone(other)
    assert shared.agree(third).txid == before.txid + 1
    assert rows(shared, third) == [10, 10]
    succeed("mv", mount / third, tmp_path / "out.db", directory=tmp_path)
    shared.gone(third)
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (10,)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_rm_when_the_database_is_made_anew_then_txids_go_on(
    shared: Cluster, name: str, mode: str
) -> None:
    """A dropped database is gone everywhere; its successor's history follows its own."""
    last = 0
    for round_number in range(3):
        with shared.primary.connect(name) as app:
            app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
            app.sql("INSERT INTO t VALUES(?)", round_number)
        position = shared.agree(name)
        assert position.txid > last
        last = position.txid
        assert rows(shared, name) == [1, 1]
        succeed("rm", name, directory=shared.primary.mount)
        shared.gone(name)


def test_rm_when_an_application_still_has_the_file_then_the_new_one_is_another(
    shared: Cluster, name: str
) -> None:
    """Writes to the unlinked file reach nobody and do not touch its successor."""
    old = shared.primary.connect(name)
    old.script("CREATE TABLE t(x)", "INSERT INTO t VALUES('old')")
    shared.agree(name)
    succeed("rm", name, directory=shared.primary.mount)
    shared.gone(name)
    with shared.primary.connect(name) as new:
        new.script("CREATE TABLE t(x)", "INSERT INTO t VALUES('new')")
        shared.agree(name)
        with old:
            old.ask("attempts", ["INSERT INTO t VALUES('lost')"])
        assert new.sql("SELECT * FROM t") == [("new",)]
        new.script("INSERT INTO t VALUES('newer')")
    shared.agree(name)
    assert rows(shared, name) == [2, 2]


def test_other_files_when_in_the_mount_then_they_pass_through_and_stay_here(
    shared: Cluster, tmp_path: Path, name: str
) -> None:
    """Text, empty files, hidden files, SQLite's companions: none of them reaches a replica."""
    mount, replica = shared.primary.mount, shared.replicas[0]
    text = "not a database\n" * 5000
    (tmp_path / "notes.txt").write_text(text)
    succeed("cp", "notes.txt", mount / "notes.txt", directory=tmp_path)
    succeed("cp", "notes.txt", mount / ".hidden", directory=tmp_path)
    succeed("touch", "empty", "orphan-journal", "orphan-wal", "x-mj0123AB9CD", directory=mount)
    assert succeed("cat", "notes.txt", directory=mount) == text
    with shared.primary.connect(name) as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)")
        shared.agree(name)
        here = shared.primary.hands.ask("listing", str(mount))
        assert {"notes.txt", "empty", ".hidden", f"{name}-wal", f"{name}-shm"} <= set(here)
        there = replica.hands.ask("listing", str(replica.mount))
    assert {"notes.txt", "empty", ".hidden", "orphan-journal", "orphan-wal"}.isdisjoint(there)
    assert not [each for each in there if "-mj" in each]
    directories = {path.name for path in (shared.primary.data_dir / "databases").iterdir()}
    assert not [each for each in directories if each.endswith(("-wal", "-shm", "-journal"))]
    succeed("rm", "notes.txt", ".hidden", "empty", "orphan-journal", "orphan-wal", directory=mount)
    succeed("rm", "x-mj0123AB9CD", directory=mount)


def test_file_when_it_becomes_a_database_then_it_is_replicated(shared: Cluster, name: str) -> None:
    """An empty file, as `touch` makes it, is a database that nobody has written yet."""
    succeed("touch", name, directory=shared.primary.mount)
    assert shared.primary.position(name) is None
    with shared.primary.connect(name) as app:
        app.script("CREATE TABLE t(x)")
    assert shared.agree(name).txid == 1


def test_transaction_over_two_databases_when_attached_then_both_are_captured(
    shared: Cluster, name: str
) -> None:
    """A super-journal joins them; it is never replicated, and a rollback leaves both alone."""
    other = f"other-{name}"
    with shared.primary.connect(name) as app:
        app.script(f"ATTACH '{shared.primary.mount / other}' AS o")
        app.script("CREATE TABLE t(x)", "CREATE TABLE o.t(x)")
        app.script("BEGIN", "INSERT INTO t VALUES(1)", "INSERT INTO o.t VALUES(1)")
        app.script("COMMIT")
        before = shared.agree(name), shared.agree(other)
        app.script("BEGIN", "INSERT INTO t VALUES(2)", "INSERT INTO o.t VALUES(2)", "ROLLBACK")
        assert (shared.agree(name), shared.agree(other)) == before
    assert rows(shared, name) == rows(shared, other) == [1, 1]
    assert not [
        each.name
        for each in (shared.replicas[0].data_dir / "files").iterdir()
        if "-mj" in each.name
    ]


# --- ordinary tools


def test_tools_when_used_on_the_mount_then_they_do_what_they_do_elsewhere(
    shared: Cluster, tmp_path: Path, name: str
) -> None:
    """ls, stat, find, df, cat, cp -p, chmod, touch, truncate, dd, sync, mv -n."""
    mount = shared.primary.mount
    source = native(tmp_path / "source.db", 50)
    succeed("cp", "-p", source, mount / name, directory=tmp_path)
    shared.agree(name)
    assert name in succeed("ls", "-la", directory=mount)
    assert succeed("stat", "-c", "%s %F", name, directory=mount).split(" ", 1) == [
        str(source.stat().st_size),
        "regular file\n",
    ]
    assert succeed("stat", "-c", "%Y", name, directory=mount) == f"{int(source.stat().st_mtime)}\n"
    assert f"./{name}" in succeed("find", ".", "-type", "f", directory=mount).splitlines()
    assert "litemq:primary" in succeed("df", ".", directory=mount)
    succeed("cmp", name, source, directory=mount)
    succeed("chmod", "640", name, directory=mount)
    assert succeed("stat", "-c", "%a", name, directory=mount) == "640\n"
    succeed("touch", "-d", "2001-02-03 04:05:06 UTC", name, directory=mount)
    assert succeed("stat", "-c", "%Y", name, directory=mount) == "981173106\n"
    succeed("sync", name, directory=mount)
    succeed("dd", "if=/dev/zero", "of=zeros", "bs=1000", "count=33", directory=mount)
    succeed("truncate", "-s", "12345", "zeros", directory=mount)
    assert succeed("stat", "-c", "%s", "zeros", directory=mount) == "12345\n"
    succeed("truncate", "-s", "100000", "zeros", directory=mount)
    assert shared.primary.hands.ask("read", str(mount / "zeros")) == bytes(100000)
    succeed("mv", "-n", "zeros", name, directory=mount)
    succeed("cmp", name, source, directory=mount)
    succeed("rm", "zeros", directory=mount)
    shared.agree(name)
    position = succeed("cat", f"{name}-pos", directory=mount)
    assert len(position.split("/")) == 3
    assert succeed("cat", ".primary", directory=mount).startswith("primary tcp://")


def test_tools_when_the_mount_cannot_do_it_then_they_fail_cleanly(
    shared: Cluster, name: str
) -> None:
    """No hard links or devices; the virtual files belong to nobody."""
    mount = shared.primary.mount
    with shared.primary.connect(name) as app:
        app.sql("CREATE TABLE t(x)")
    before = shared.agree(name)
    refused = "Operation not permitted"
    assert refused in fail("ln", "-s", "/etc/passwd", "link", directory=mount)
    assert refused in fail("ln", name, "link", directory=mount)
    assert refused in fail("mkfifo", "pipe", directory=mount)
    assert "Permission denied" in fail("dd", "if=/dev/zero", f"of={name}-pos", directory=mount)
    assert "Permission denied" in fail("touch", f"{name}-pos", directory=mount)
    assert "Permission denied" in fail("rm", "-f", f"{name}-pos", directory=mount)
    assert "Permission denied" in fail("rm", "-f", ".primary", directory=mount)
    assert "Permission denied" in fail("mv", name, ".primary", directory=mount)
    assert fail("mv", f"{name}-pos", "elsewhere", directory=mount)
    assert fail("rmdir", name, directory=mount)
    assert fail("cat", "nothing", directory=mount)
    too_long = "x" * 256
    assert "too long" in fail("touch", too_long, directory=mount)
    assert run("ls", directory=mount).returncode == 0
    assert shared.agree(name) == before


def test_mount_when_two_names_differ_in_their_end_then_they_are_two_databases(
    shared: Cluster, name: str
) -> None:
    """`a.db` and `a.db2` share a beginning, as their topics on the stream do."""
    for database in (name, f"{name}2", f"{name}-x", f"Ünï cödé {name}"):
        with shared.primary.connect(database) as app:
            app.script("CREATE TABLE t(x)", f"INSERT INTO t VALUES('{database}')")
    for database in (name, f"{name}2", f"{name}-x", f"Ünï cödé {name}"):
        shared.agree(database)
        with shared.replicas[0].connect(database) as app:
            assert app.sql("SELECT * FROM t") == [(database,)]


# --- size


# it takes long: with write-back in `make test-write-back`
@pytest.mark.caches(False)
@pytest.mark.parametrize(
    ("mode", "page_size"),
    [
        ("delete", 65536),
        pytest.param("wal", 65536, marks=pytest.mark.torture),
        pytest.param("wal", 4096, marks=pytest.mark.torture),
    ],
)
def test_database_when_larger_than_a_gibibyte_then_the_lock_page_is_left_out(
    new_cluster: Callable[..., Cluster], mode: str, page_size: int
) -> None:
    """The page at 1 GiB is never written, logged or sent; those around it are."""
    cluster = new_cluster()
    with cluster.primary.connect("big.db", timeout_s=60) as app:
        app.script(f"PRAGMA page_size={page_size}", "PRAGMA synchronous=OFF")
        app.script(f"PRAGMA journal_mode={mode}")
        app.script("CREATE TABLE t(x)", "CREATE TABLE pad(b)")
        pages = (1 << 30) // page_size
        app.script("INSERT INTO pad VALUES(zeroblob(400000000))")
        app.script("INSERT INTO pad VALUES(zeroblob(400000000))")
        app.script("INSERT INTO pad VALUES(zeroblob(290000000))")
        assert app.one("PRAGMA page_count") > pages + 10
        app.script("INSERT INTO t VALUES('after the lock page')")
        replica = cluster.replicas[0]
        position = cluster.captured("big.db", timeout_s=60)
        eventually(
            lambda: replica.position("big.db"),
            until=position,
            timeout_s=60,
            what="the replica follows",
        )
        with replica.connect("big.db") as reader:
            assert reader.sql("SELECT * FROM t") == [("after the lock page",)]
            assert reader.one("SELECT total(length(b)) FROM pad") == 1_090_000_000
            assert reader.one("PRAGMA page_count") == app.one("PRAGMA page_count")


def test_connection_when_the_mount_is_read_by_another_user_then_modes_are_kept(
    shared: Cluster, name: str
) -> None:
    """New files take the umask of their maker, and SQLite gives its companions the same mode."""
    with SqlProcess() as app:
        app.open(shared.primary.mount / name)
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)")
        for suffix in ("", "-wal", "-shm"):
            mode = succeed("stat", "-c", "%a", f"{name}{suffix}", directory=shared.primary.mount)
            assert mode == "644\n"
    shared.agree(name)


def test_wal_when_it_stands_beside_an_empty_database_then_sqlite_may_delete_it(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It is another database's, left behind: no lock is held for that."""
    cluster = new_cluster()
    primary = cluster.primary
    with primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)")
        left = (primary.data_dir / "files" / "a.db-wal").read_bytes()
    primary.hands.ask("write", str(primary.mount / "b.db-wal"), {"hex": left.hex()}, 0)
    with primary.connect("b.db") as app:
        app.script("CREATE TABLE u(x)", "INSERT INTO u VALUES(1)")
        assert app.one("SELECT count(*) FROM u") == 1
        cluster.agree("b.db")
