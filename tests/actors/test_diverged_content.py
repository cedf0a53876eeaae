"""What a divergence did to tables and rows, compared with what SQLite itself was told to do."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from litemq.actors import divergence
from litemq.actors.diverged_content import Change, Content
from litemq.actors.divergence import Divergence
from litemq.errors import LiteMQError
from litemq.txlog import ltx
from litemq.txlog.store import DatabaseLog

EPOCH = 3


@dataclass
class Recorded:
    """A database that is written by SQLite, and its log."""

    directory: Path
    page_size: int = 512
    auto_vacuum: int = 0

    def __post_init__(self) -> None:
        self.path = self.directory / "a.db"
        self.log = DatabaseLog.open(self.directory / "a", segment_bytes=1 << 13, node_id=0)
        self.app = sqlite3.connect(self.path, isolation_level=None)
        self.app.execute(f"PRAGMA page_size={self.page_size}")
        self.app.execute(f"PRAGMA auto_vacuum={self.auto_vacuum}")

    def do(self, *statements: str) -> None:
        """One transaction, logged."""
        if len(statements) > 1:
            self.app.execute("BEGIN")
        for statement in statements:
            self.app.execute(statement)
        if len(statements) > 1:
            self.app.execute("COMMIT")
        self.take()

    def take(self) -> None:
        data = self.path.read_bytes()
        size = self.page_size
        pages = [(at // size + 1, data[at : at + size]) for at in range(0, len(data), size)]
        self.log.prepare(EPOCH, pages, commit=len(pages), page_size=size, timestamp_ms=7)
        self.log.flush()

    def keep(self, common: int | None, *, database: bool = False) -> Divergence:
        first, last = self.log.range
        image = self.path.read_bytes()
        about = Divergence(
            "", "a.db", divergence.utc_now(), "why", self.log.epochs.to_list(), self.log.head,
            first, last, self.page_size, self.log.n_pages, "b", 4, common, self.directory,
        )  # fmt: skip

        def write(fd: int) -> None:
            with open(fd, "wb", closefd=False) as file:
                file.write(image)

        return divergence.keep(
            self.directory / "diverged",
            about,
            self.directory / "a" / "log",
            self.log.checksums.read(1, self.log.n_pages),
            write if database else None,
        )


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def content(entry: Divergence) -> Content:
    return Content(entry, Path("/nonexistent"))


def changes(entry: Divergence) -> list[Change]:
    return list(content(entry).changes())


def rows(change: Change) -> dict[str, tuple[int | None, int | None, int | None]]:
    return {each.table: (each.inserted, each.deleted, each.changed) for each in change.tables}


def test_changes_when_rows_are_written_then_each_table_is_told_with_its_rows(
    recorded: Recorded,
) -> None:
    """New tables, long rows, indexes, tables without rowid, a table that is emptied or dropped."""
    recorded.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "CREATE INDEX i ON t(v)")
    recorded.do("CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID")
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<{}) "
    recorded.do(
        many.format(200) + "INSERT INTO t SELECT x, hex(randomblob(30)) FROM n",
        many.format(100) + "INSERT INTO w SELECT 'key' || x, hex(randomblob(20)) FROM n",
    )
    recorded.do("UPDATE t SET v = hex(randomblob(3000)) WHERE id IN (5, 50)")
    recorded.do("UPDATE t SET v = hex(randomblob(3000)) WHERE id = 50")
    recorded.do("DELETE FROM w WHERE k < 'key2'", "UPDATE w SET v = 1 WHERE k = 'key99'")
    recorded.do("DELETE FROM t WHERE id BETWEEN 100 AND 150", "INSERT INTO t VALUES(1000, 1)")
    recorded.do("DELETE FROM t")
    recorded.do("DROP TABLE w")
    recorded.do("VACUUM")
    found = changes(recorded.keep(0))
    assert [each.txid for each in found] == list(range(1, 11))
    assert {each.epoch for each in found} == {EPOCH}
    assert rows(found[0])["sqlite_schema"] == (2, 0, 0)
    assert rows(found[1])["sqlite_schema"] == (1, 0, 0)
    assert rows(found[2]) == {"t": (200, 0, 0), "w": (100, 0, 0)}
    assert rows(found[3])["t"] == (0, 0, 2)
    assert rows(found[4])["t"] == (0, 0, 1)
    assert rows(found[5]) == {"w": (0, 12, 1)}
    assert rows(found[6])["t"] == (1, 51, 0)
    assert rows(found[7])["t"] == (0, 150, 0)
    assert rows(found[8])["sqlite_schema"] == (0, 1, 0)
    assert rows(found[8])["w"] == (0, 88, 0)
    assert not any(each.unknown for each in found)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("page_size", [512, 4096])
def test_changes_when_a_program_writes_at_random_then_the_counts_are_sqlite_s(
    tmp_path: Path, seed: int, page_size: int
) -> None:
    """Every transaction's counts are the differences of the tables before and after it."""
    chance = random.Random(seed)
    recorded = Recorded(tmp_path, page_size, auto_vacuum=seed % 3)
    tables = {"t": "rowid", "w": "k"}
    recorded.do("CREATE TABLE t(v, x)", "CREATE INDEX i ON t(v)")
    recorded.do("CREATE TABLE w(v, k INTEGER PRIMARY KEY DESC, u UNIQUE) WITHOUT ROWID")

    def image() -> dict[str, dict[object, object]]:
        return {
            name: {row[0]: row for row in recorded.app.execute(f"SELECT {key}, * FROM {name}")}
            for name, key in tables.items()
        }

    wanted = []
    for _ in range(40):
        before = image()
        statements = []
        for _ in range(chance.randint(1, 4)):
            size, number = chance.choice([5, 50, 700, 3000]), chance.randrange(60)
            statements.append(
                chance.choice(
                    [
                        f"INSERT INTO t VALUES(randomblob({size}), {number})",
                        f"INSERT INTO t SELECT randomblob({size}), x FROM t WHERE x % 7 = 1",
                        f"UPDATE t SET v = randomblob({size}) WHERE x = {number}",
                        f"UPDATE t SET v = randomblob(length(v)) WHERE x = {number}",
                        f"DELETE FROM t WHERE x BETWEEN {number} AND {number + 9}",
                        f"REPLACE INTO w VALUES(randomblob({size}), {number}, randomblob(9))",
                        f"DELETE FROM w WHERE k % 10 = {number % 10}",
                        f"UPDATE w SET v = randomblob(length(v)) WHERE k < {number}",
                        "DELETE FROM w" if number < 5 else "SELECT 1",
                    ]
                )
            )
        txid = recorded.log.head.txid
        recorded.do(*statements)
        if recorded.log.head.txid > txid:
            after = image()
            wanted.append(
                {
                    name: (
                        len(after[name].keys() - before[name].keys()),
                        len(before[name].keys() - after[name].keys()),
                        sum(
                            before[name][key] != after[name][key]
                            for key in before[name].keys() & after[name].keys()
                        ),
                    )
                    for name in tables
                }
            )
    found = changes(recorded.keep(2))
    assert len(found) == len(wanted)
    for change, expected in zip(found, wanted, strict=True):
        assert change.unknown == 0
        for name in tables:
            assert rows(change).get(name, (0, 0, 0)) == expected[name], (seed, change)


def shortened(entry: Divergence) -> Divergence:
    """The same entry, whose log has lost its oldest segment."""
    segments = sorted((entry.directory / "log").glob("*.seg"))
    assert len(segments) > 2
    segments[0].unlink()
    first = int(segments[1].stem, 16)
    return Divergence(
        **{name: getattr(entry, name) for name in Divergence.__slots__} | {"first_txid": first}
    )


def grown(recorded: Recorded) -> int:
    """Many transactions to a few tables; the last TXID."""
    recorded.do("CREATE TABLE t(v)", "CREATE TABLE other(v)")
    for _ in range(60):
        recorded.do("INSERT INTO other VALUES(randomblob(200))")
    for _ in range(30):
        recorded.do("INSERT INTO t VALUES(randomblob(200))")
    return recorded.log.head.txid


def test_changes_when_the_log_is_short_but_the_file_was_kept_then_rows_are_exact(
    recorded: Recorded,
) -> None:
    """Pages of the file that the log does not contradict are as good as its own."""
    last = grown(recorded)
    entry = shortened(recorded.keep(last - 5, database=True))
    assert entry.first_txid > 1
    found = changes(entry)
    assert [rows(each)["t"] for each in found] == [(1, 0, 0)] * 5


def test_changes_when_pages_are_missing_then_no_row_is_claimed(recorded: Recorded) -> None:
    """Without the pages that lead to a table nothing is said of its rows."""
    last = grown(recorded)
    entry = shortened(recorded.keep(last - 5))
    for change in changes(entry):
        assert change.pages == change.unknown + change.idle + sum(e.pages for e in change.tables)
        assert all(each.inserted in (None, 1) for each in change.tables)


def test_database_when_written_then_it_is_the_one_that_diverged(
    recorded: Recorded, tmp_path: Path
) -> None:
    """From the log alone, from the log and the file, and not at all when pages are missing."""
    last = grown(recorded)
    whole = recorded.keep(last - 5)
    assert content(whole).write_database(tmp_path / "out.db") == recorded.log.n_pages
    assert (tmp_path / "out.db").read_bytes() == recorded.path.read_bytes()
    short = shortened(whole)
    with pytest.raises(LiteMQError, match="are not known"):
        content(short).write_database(tmp_path / "not.db")
    assert not (tmp_path / "not.db").exists()
    live = Content(short, recorded.path)
    live.write_database(tmp_path / "live.db")
    with closing(sqlite3.connect(tmp_path / "live.db")) as found:
        assert found.execute("SELECT count(*) FROM t").fetchone() == (30,)


def test_ltx_when_written_then_every_file_decodes_or_a_snapshot_stands_before_them(
    recorded: Recorded, tmp_path: Path
) -> None:
    """The whole log where there is one; else what diverged, with the state before it if known."""
    last = grown(recorded)
    entry = recorded.keep(last - 5, database=True)
    assert content(entry).write_ltx(tmp_path / "whole") == (last, True)
    short = shortened(entry)
    assert content(short).write_ltx(tmp_path / "short") == (6, True)
    names = sorted(path.name for path in (tmp_path / "short").rglob("*.ltx"))
    assert names[0] == f"{1:016x}-{last - 5:016x}.ltx"
    assert names[-1] == f"{last:016x}-{last:016x}.ltx"
    (short.directory / "database").unlink()
    assert content(short).write_ltx(tmp_path / "bare") == (5, False)
    with pytest.raises(LiteMQError, match="empty directory"):
        content(short).write_ltx(tmp_path / "bare")
    record = next(divergence.records(entry, last, last))
    assert ltx.decode(record).header.max_txid == last
