"""What a tail still says of a WAL that SQLite has emptied, started over, or not begun."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litemq.errors import FormatError
from litemq.fs import wal_tail
from litemq.fs.wal_frames import WalFrames
from litemq.fs.wal_tail import WalTail


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES(1)")
        yield db


@pytest.fixture
def tail(database: sqlite3.Connection, tmp_path: Path) -> Iterator[WalTail]:
    """One that has taken everything."""
    with closing(WalTail(str(tmp_path / "a.db-wal"), None)) as tail:
        assert tail.open()
        assert len(tail.collect(chain=True)) == 2
        yield tail


def test_overlay_when_the_wal_is_as_it_was_taken_then_it_holds_its_pages(tail: WalTail) -> None:
    """The newest image of each page, and the size they leave."""
    overlay = tail.overlay()
    assert overlay is not None
    assert overlay.n_pages == 2
    assert overlay.read(1)
    assert overlay.read(3) is None


@pytest.mark.parametrize("mode", ["TRUNCATE", "RESTART"])
def test_overlay_when_the_wal_has_ended_then_there_is_none(
    tail: WalTail, database: sqlite3.Connection, mode: str
) -> None:
    """Its frames are gone or another generation's: they are no pages, nor is their absence."""
    database.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    if mode == "RESTART":
        database.execute("UPDATE t SET x = 2")
    assert tail.overlay() is None
    assert tail.collect(chain=True) == [] if mode == "TRUNCATE" else tail.collect(chain=True)


@pytest.mark.parametrize("count", ["skip", "stop_where_recovery_stops", "skip_published"])
def test_huge_transaction_when_it_is_only_counted_then_it_counts_as_taken(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    """Nobody reads its pages for that, and what lies over the file is the newest."""
    database.execute("PRAGMA wal_autocheckpoint=0")
    monkeypatch.setattr(wal_tail, "LARGEST_RECORD_BYTES", 1 << 16)
    database.execute("INSERT INTO t SELECT randomblob(100000)")
    database.execute("INSERT INTO t VALUES(2)")
    with closing(WalTail(str(tmp_path / "a.db-wal"), None)) as tail:
        assert tail.open()
        getattr(tail, count)()
        assert tail.collect(chain=True) == []
        assert tail.captured_end == (tmp_path / "a.db-wal").stat().st_size
        overlay = tail.overlay()
        assert overlay is not None
        assert overlay.n_pages == database.execute("PRAGMA page_count").fetchone()[0]


def test_huge_transaction_when_it_can_not_be_read_then_the_next_look_takes_it(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as taken when it was."""
    database.execute("PRAGMA wal_autocheckpoint=0")
    monkeypatch.setattr(wal_tail, "LARGEST_RECORD_BYTES", 1 << 16)
    database.execute("INSERT INTO t SELECT randomblob(100000)")
    with closing(WalTail(str(tmp_path / "a.db-wal"), None)) as tail:
        assert tail.open()
        for _ in range(2):
            *_, huge = tail.collect(chain=True)
            pages = iter(huge.pages)
            next(pages)
        assert len(list(pages)) > 20
        assert tail.collect(chain=True) == []


def test_frames_when_they_are_published_and_not_taken_then_they_are_not_struck_out(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """What is behind all that was published is."""
    path = tmp_path / "a.db-wal"
    with closing(WalTail(str(path), None)) as tail:
        assert tail.open()
        tail.use_file(os.open(path, os.O_RDWR))
        tail.use_index(os.open(tmp_path / "a.db-shm", os.O_RDWR))
        assert tail.collect(chain=False)
        with open(path, "ab") as refused:
            refused.write(b"frame" * 900)
        database.execute("PRAGMA synchronous=OFF")
        assert tail.strike_out()
        assert path.read_bytes()[tail.captured_end :].startswith(bytes(24))
        database.execute("INSERT INTO t VALUES(2)")
        assert not tail.strike_out()
        assert len(tail.collect(chain=False)) == 1


def test_huge_transaction_when_its_wal_is_cut_while_it_is_walked_then_nothing_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty WAL is no database without pages."""
    monkeypatch.setattr(wal_tail, "LARGEST_RECORD_BYTES", 1 << 20)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        for statement in (
            "PRAGMA journal_mode=wal",
            "PRAGMA wal_autocheckpoint=0",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE t(x)",
        ):
            db.execute(statement)
        tail = WalTail(str(tmp_path / "a.db-wal"), None, cached=True)
        assert tail.open()
        tail.use_index(os.open(tmp_path / "a.db-shm", os.O_RDWR))
        assert tail.collect(chain=False)
        db.execute("BEGIN")
        for _ in range(700):
            db.execute("INSERT INTO t VALUES(randomblob(3000))")
        db.execute("COMMIT")
        walk = WalFrames.end_of_commit

        def cut(self: WalFrames, first: int, last: int) -> int:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return walk(self, first, last)

        with monkeypatch.context() as patch:
            patch.setattr(WalFrames, "end_of_commit", cut)
            with pytest.raises(FormatError, match="cut"):
                tail.collect(chain=False)
        tail.close()
