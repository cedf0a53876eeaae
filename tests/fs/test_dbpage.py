"""Databases that SQLite writes, copied page by page into another, under the eyes of readers.

The source is written by the standard library's SQLite; the copy by sqlean's in this process, and
read by the standard library's in others, never two copies of SQLite on one file in one process.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import sys
import time

import pytest

from litemq.errors import NotADatabaseError, StorageError
from litemq.fs.dbpage import PageReader, PageWriter
from litemq.fs.pages import parse_header, with_bookkeeping
from litemq.fs.sqlite_errors import BusyError
from litemq.fs.wal_tail import WalTail

CHECK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.create_collation("strange", lambda a, b: (a > b) - (a < b))
print(*db.execute("PRAGMA integrity_check").fetchone(), db.execute(sys.argv[2]).fetchall(), sep="|")
"""

READER = """
import os, sqlite3, sys, urllib.parse
path, rounds, last = sys.argv[1], 0, -1
while not os.path.exists(path + ".stop"):
    uri = "file:" + urllib.parse.quote(path) + "?mode=ro"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0.2)
    try:
        for _ in range(5):
            db.execute("BEGIN")
            version, rows = db.execute("SELECT version, row_count FROM meta").fetchone()
            assert db.execute("SELECT count(*) FROM t").fetchone() == (rows,), "half a transaction"
            assert version >= last, "went back"
            assert db.execute("PRAGMA quick_check").fetchone() == ("ok",), "malformed"
            last, rounds = version, rounds + 1
            db.execute("COMMIT")
    except sqlite3.OperationalError as exc:
        if "locked" not in str(exc):
            raise
    db.close()
print(rounds)
"""


class Source:
    """A database to copy: commits as sets of changed pages, as a log would give them."""

    def __init__(self, path):
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self._copied = b""
        self._page_size = 0

    def run(self, *statements):
        for statement in statements:
            self.db.execute(statement).fetchall()
        return self

    def image(self):
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.read_bytes()

    def changes(self):
        image = self.image()
        header = parse_header(image)
        size = header.page_size
        old = self._copied if size == self._page_size else b""
        self._copied, self._page_size = image, size
        pages = [
            (start // size + 1, image[start : start + size])
            for start in range(0, len(image), size)
            if image[start : start + size] != old[start : start + size]
        ]
        return {
            "pages": pages,
            "commit": len(image) // size,
            "page_size": size,
            "wal": header.wal,
        }


def apply(writer, changes, *, attempts=2000):
    """Applies, again and again while readers are in the way."""
    changes = dict(changes)
    pages = changes.pop("pages")
    for _ in range(attempts):
        try:
            return writer.apply(iter(pages), **changes)
        except BusyError:
            time.sleep(0.001)  # a reader needs the processor to get out of the way
    raise AssertionError("still busy")


def assert_same(source, path):
    """The copy, read as a client, is the source but for SQLite's bookkeeping."""
    image = source.image()
    size = parse_header(image).page_size
    with PageReader(str(path)) as reader:
        pages = reader.read(range(1, len(image) // size + 3))
    pages[1] = with_bookkeeping(pages[1], bytes(12))
    expected = with_bookkeeping(image[:size], bytes(12)) + image[size:]
    assert b"".join(pages[pgno] for pgno in sorted(pages)) == expected


def check(path, query="SELECT count(*) FROM t"):
    done = subprocess.run(
        [sys.executable, "-c", CHECK, path, query],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.fixture
def source(tmp_path):
    source = Source(tmp_path / "source.db")
    yield source
    source.db.close()


@pytest.fixture
def copy(tmp_path):
    return tmp_path / "copy with ?#%.db"


@pytest.fixture
def writer(copy):
    with PageWriter(str(copy), busy_timeout_s=0.05) as writer:
        yield writer


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("auto_vacuum", [0, 1, 2])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_apply_when_the_file_is_new_then_it_grows_shrinks_and_changes_schema(
    source, writer, copy, page_size, auto_vacuum, mode
):
    """From nothing through growth, new tables, VACUUM and shrinking, always the source's bytes."""
    source.run(
        f"PRAGMA page_size={page_size}",
        f"PRAGMA auto_vacuum={auto_vacuum}",
        f"PRAGMA journal_mode={mode}",
        "CREATE TABLE t(k INTEGER PRIMARY KEY, x)",
    )
    assert writer.n_pages == 0
    for statements in (
        (),
        ("INSERT INTO t(x) VALUES (zeroblob(300000))",),
        ("CREATE TABLE u AS SELECT * FROM t", "CREATE INDEX i ON u(x)"),
        ("DELETE FROM t",),
        ("PRAGMA incremental_vacuum(7)",),
        ("DROP TABLE u", "VACUUM"),
        ("INSERT INTO t(x) VALUES (1)",),
    ):
        source.run(*statements)
        apply(writer, source.changes())
        assert_same(source, copy)
        assert writer.checkpoint()
        assert copy.stat().st_size == source.path.stat().st_size
        assert writer.wal == (mode == "WAL")
        assert writer.page_size == page_size
    assert check(copy) == "ok|[(1,)]"


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_apply_when_the_text_is_utf_16_then_any_connection_goes_on(tmp_path, copy, encoding, mode):
    """A new file gets the encoding of its first page 1, an open connection one that was changed,
    and a later connection finds it."""
    source = Source(tmp_path / "wide.db").run(
        f"PRAGMA encoding='{encoding}'", f"PRAGMA journal_mode={mode}",
        "CREATE TABLE t(x)", "INSERT INTO t VALUES ('a\u00f1\u65e5')",
    )  # fmt: skip
    plain = Source(tmp_path / "narrow.db").run("CREATE TABLE t(x)", "INSERT INTO t VALUES ('u')")
    for _ in range(2):
        with PageWriter(str(copy), busy_timeout_s=0.1) as writer:
            for each in (source, plain, source):
                each.run("INSERT INTO t VALUES ('more')", "CREATE TABLE IF NOT EXISTS u(y)")
                each._copied = b""
                apply(writer, each.changes())
                assert_same(each, copy)
            source.run("INSERT INTO t VALUES ('again')")
            apply(writer, source.changes())
        with PageWriter(str(copy), busy_timeout_s=0.1) as writer:
            source.run("INSERT INTO t VALUES ('once more')", "DROP TABLE u")
            apply(writer, source.changes())
            assert_same(source, copy)
    assert check(copy, "SELECT x FROM t LIMIT 1").startswith("ok|[('a\u00f1\u65e5',)]")


@pytest.mark.parametrize("old", [512, 4096, 65536])
@pytest.mark.parametrize("new", [512, 1024, 4096, 65536])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_apply_when_the_page_size_changes_then_the_copy_follows(
    source, writer, copy, old, new, mode
):
    """VACUUM into another page size, in both directions, with a collation nobody here has."""
    source.db.create_collation("strange", lambda a, b: (a > b) - (a < b))
    source.run(
        f"PRAGMA page_size={old}",
        f"PRAGMA journal_mode={mode}",
        "CREATE TABLE t(k INTEGER PRIMARY KEY, x)",
        "CREATE TABLE s(x TEXT COLLATE strange UNIQUE)",
        "INSERT INTO t(x) VALUES (zeroblob(100001))",
    )
    apply(writer, source.changes())
    source.run(
        "PRAGMA journal_mode=DELETE",
        f"PRAGMA page_size={new}",
        "VACUUM",
        f"PRAGMA journal_mode={mode}",
    )
    apply(writer, source.changes())
    assert (writer.page_size, writer.wal) == (new, mode == "WAL")
    assert_same(source, copy)
    apply(writer, source.run("INSERT INTO t(x) VALUES (zeroblob(9999))").changes())
    assert_same(source, copy)
    writer.checkpoint()
    assert copy.stat().st_size == source.path.stat().st_size
    assert check(copy) == "ok|[(2,)]"


def test_apply_when_many_transactions_come_as_one_then_auto_vacuum_does_not_interfere(
    source, writer, copy
):
    """Out of mode FULL, with free pages on page 1: SQLite's COMMIT must not move them."""
    source.run(
        "PRAGMA auto_vacuum=1",
        "CREATE TABLE t(x)",
        "CREATE TABLE u(x)",
        "INSERT INTO t VALUES (zeroblob(100000))",
        "INSERT INTO u VALUES (zeroblob(100000))",
    )
    apply(writer, source.changes())
    source.run("PRAGMA auto_vacuum=2", "DELETE FROM t")
    apply(writer, source.changes())
    assert_same(source, copy)
    source.run("PRAGMA auto_vacuum=1", "PRAGMA incremental_vacuum", "INSERT INTO t VALUES (1)")
    apply(writer, source.changes())
    source.run("PRAGMA auto_vacuum=0", "VACUUM", "DELETE FROM u")
    apply(writer, source.changes())
    assert_same(source, copy)
    assert check(copy).startswith("ok")


def test_apply_when_the_last_page_was_never_written_then_the_file_reaches_it(source, writer, copy):
    """SQLite may leave a free page at the end unwritten; a short file would be malformed."""
    changes = source.run("CREATE TABLE t(x)", "INSERT INTO t VALUES (zeroblob(9000))").changes()
    apply(writer, changes)
    page1 = bytearray(changes["pages"][0][1])
    commit = changes["commit"] + 3
    page1[28:32] = commit.to_bytes(4, "big")
    apply(writer, {**changes, "pages": [(1, bytes(page1))], "commit": commit})
    with PageReader(str(copy)) as reader:
        assert reader.read([commit, commit + 1]) == {commit: bytes(4096)}
        assert reader.snapshot_header().n_pages_in_header == commit


def test_apply_when_the_schema_cannot_be_parsed_then_it_goes_on_and_so_do_others(
    source, writer, copy
):
    """A newer SQLite's schema is none of our business, also for a connection opened later."""
    source.run("CREATE TABLE t(x)")
    apply(writer, source.changes())
    source.run(
        "PRAGMA writable_schema=ON",
        "INSERT INTO sqlite_schema VALUES ('table', 'f', 'f', 2, 'CREATE FUTURE f')",
        "PRAGMA schema_version=77",
    )
    apply(writer, source.changes())
    source.run("INSERT INTO t VALUES (1)")
    with PageWriter(str(copy)) as other:
        apply(other, source.changes())
    assert_same(source, copy)
    assert "malformed database schema" in check(copy)


def test_apply_when_a_reader_is_in_the_way_then_busy_and_nothing_changed(source, writer, copy):
    """Rollback mode: a reader's transaction keeps the commit out; afterwards it works."""
    apply(writer, source.run("CREATE TABLE t(x)").changes())
    changes = source.run("INSERT INTO t VALUES (1)").changes()
    with PageReader(str(copy), busy_timeout_s=0) as reader:
        reader._db.execute("BEGIN")
        reader.read([1])
        with pytest.raises(BusyError):
            writer.apply(changes["pages"], commit=2, page_size=4096, wal=False)
        reader._db.execute("COMMIT")
    assert check(copy) == "ok|[(0,)]"
    apply(writer, changes)
    assert check(copy) == "ok|[(1,)]"


def test_apply_when_wal_cannot_be_left_then_it_can_go_on_in_wal(source, writer, copy):
    """A connection of a reader keeps the mode; its bytes on page 1 then say what the file is."""
    source.run("PRAGMA journal_mode=WAL", "CREATE TABLE t(x)")
    apply(writer, source.changes())
    source.run("PRAGMA journal_mode=DELETE", "INSERT INTO t VALUES (1)")
    changes = source.changes()
    pages = changes["pages"]
    with PageReader(str(copy)) as reader:
        reader.read([1])
        with pytest.raises(BusyError):
            writer.apply(pages, commit=2, page_size=4096, wal=False)
        assert writer.wal
        writer.apply(pages, commit=2, page_size=4096, wal=True)
        assert reader.snapshot_header().wal
    writer.apply(pages, commit=2, page_size=4096, wal=False)
    assert not writer.wal
    assert_same(source, copy)


def test_apply_when_the_pages_do_not_ascend_then_nothing_changed(source, writer, copy):
    """Page 1 must be known first, and page numbers tell a stream that repeats itself."""
    apply(writer, source.run("CREATE TABLE t(x)").changes())
    page = bytes(4096)
    for pages in ([(2, page), (1, page)], [(2, page), (2, page)]):
        with pytest.raises(ValueError, match="ascend"):
            writer.apply(pages, commit=2, page_size=4096, wal=False)
    with pytest.raises(ValueError, match="at least one page"):
        writer.apply([], commit=0, page_size=4096, wal=False)
    with pytest.raises(ValueError, match="all pages"):
        writer.apply([(2, page)], commit=2, page_size=512, wal=False)
    assert check(copy) == "ok|[(0,)]"


def test_open_when_it_is_no_database_or_cannot_be_made_then_an_error_of_ours(tmp_path):
    """SQLite's codes come out as our errors, with an errno where there is one."""
    (tmp_path / "text.db").write_text("hello " * 100)
    with pytest.raises(NotADatabaseError):
        PageWriter(str(tmp_path / "text.db"))
    with pytest.raises(StorageError) as caught:
        PageWriter(str(tmp_path / "missing" / "a.db"))
    assert caught.value.errno == errno.EACCES
    with pytest.raises(StorageError):
        PageReader(str(tmp_path / "missing.db")).read([1])


def test_close_when_the_writer_stays_open_then_a_read_only_client_finds_its_files(
    source, writer, copy
):
    """A read-only open of a WAL database needs -wal and -shm: the writer keeps them."""
    source.run("PRAGMA journal_mode=WAL", "CREATE TABLE t(x)")
    apply(writer, source.changes())
    assert check(copy) == "ok|[(0,)]"
    for suffix in ("-wal", "-shm"):
        assert copy.with_name(copy.name + suffix).exists()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_apply_when_readers_watch_a_random_history_then_they_see_only_its_states(
    source, writer, copy, tmp_path, seed
):
    """Readers in other processes: whole transactions, in order, in a database that is well."""
    rng = random.Random(seed)
    source.run(
        f"PRAGMA page_size={rng.choice([512, 4096])}",
        f"PRAGMA auto_vacuum={seed % 3}",
        "PRAGMA journal_mode=WAL",
        "BEGIN",
        "CREATE TABLE t(k INTEGER PRIMARY KEY, x)",
        "CREATE INDEX i ON t(x)",
        "CREATE TABLE meta(version, row_count)",
        "INSERT INTO meta VALUES (0, 0)",
        "COMMIT",
    )
    apply(writer, source.changes())
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, copy], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for version in range(1, 120):
            kind = rng.choice(["insert"] * 5 + ["delete"] * 2 + ["schema", "vacuum"])
            if kind == "vacuum":
                source.run("VACUUM")
            source.run("BEGIN")
            if kind == "insert":
                for _ in range(rng.randint(1, 40)):
                    source.run(f"INSERT INTO t(x) VALUES (randomblob({rng.choice([9, 3000])}))")
            elif kind == "delete":
                source.run(f"DELETE FROM t WHERE k % {rng.randint(1, 4)} = 0")
            elif kind == "schema":
                source.run(
                    "DROP TABLE IF EXISTS z", f"CREATE TABLE z AS SELECT * FROM t LIMIT {version}"
                )
            source.run(
                f"UPDATE meta SET version={version}, row_count=(SELECT count(*) FROM t)", "COMMIT"
            )
            apply(writer, source.changes())
            if version == 60:
                # these readers close their connections often, so it can be left
                source.run("PRAGMA journal_mode=DELETE")
        assert_same(source, copy)
    finally:
        copy.with_name(copy.name + ".stop").touch()
        outcomes = [(reader.communicate(timeout=30)[0], reader.returncode) for reader in readers]
    assert [code for _, code in outcomes] == [0, 0]
    assert all(int(rounds) > 0 for rounds, _ in outcomes)


def locks_of(path):
    """The kernel's list of this process's locks on the file."""
    stat = os.stat(path)
    file = f":{stat.st_ino} "
    with open("/proc/locks", encoding="ascii") as lines:
        return sorted(
            line.split(maxsplit=1)[1]
            for line in lines
            if file in line and f" {os.getpid()} " in line
        )


def test_wal_end_when_asked_then_it_is_the_end_of_the_chain_and_no_lock_is_lost(tmp_path):
    """After every transaction; a log writer that is told need not walk the chain."""
    source, target = Source(tmp_path / "a.db"), tmp_path / "b.db"
    source.run("CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
    with PageWriter(str(target)) as writer:
        for number in range(5):
            source.run(f"INSERT INTO t VALUES(randomblob({900 * number}))")
            writer.apply(**source.changes() | {"wal": number > 0})
            if not number:
                assert writer.wal_end() is None
                continue
            before = locks_of(f"{target}-shm")
            assert before
            tail = WalTail(f"{target}-wal", None)
            assert tail.open()
            tail.skip()
            assert writer.wal_end() == tail.position()
            tail.close()
            told = WalTail(f"{target}-wal", writer.wal_end())
            assert told.open()
            assert told.collect(chain=True) == []
            assert told.position() == writer.wal_end()
            told.close()
            assert locks_of(f"{target}-shm") == before
