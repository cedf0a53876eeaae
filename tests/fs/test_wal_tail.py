"""What a tail still says of a WAL that SQLite has emptied, started over, or not begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

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
