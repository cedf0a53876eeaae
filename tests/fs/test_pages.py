"""The header of a database, against databases that SQLite made."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.errors import NotADatabaseError
from litemq.fs.pages import (
    DatabaseHeader,
    bookkeeping,
    database_size,
    parse_header,
    with_bookkeeping,
)


def make(path, page_size=4096, auto_vacuum=0, mode="delete"):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("CREATE TABLE t(x)")
    db.execute("INSERT INTO t VALUES (zeroblob(100000))")
    db.close()
    return path.read_bytes()


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("auto_vacuum", [0, 1, 2])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_parse_header_when_sqlite_wrote_it_then_it_says_what_the_pragmas_say(
    tmp_path, page_size, auto_vacuum, mode
):
    """Page size, auto_vacuum, journal mode and size are read as SQLite reads them."""
    raw = make(tmp_path / "a.db", page_size, auto_vacuum, mode)
    header = parse_header(raw)
    assert header.page_size == page_size
    assert header.auto_vacuum == auto_vacuum
    assert header.wal == (mode == "wal")
    assert database_size(header, len(raw)) == len(raw) // page_size == header.n_pages_in_header


def test_database_size_when_the_header_cannot_be_right_then_the_file_counts(tmp_path):
    """An old SQLite leaves the count stale; a file cut short has fewer pages."""
    raw = bytearray(make(tmp_path / "a.db"))
    n_pages = len(raw) // 4096
    assert database_size(parse_header(raw), len(raw) + 4096) == n_pages
    assert database_size(parse_header(raw), len(raw) - 4096) == n_pages - 1
    raw[92:96] = b"\0\0\0\0"  # written by a version that does not keep the count
    assert database_size(parse_header(raw), len(raw) + 4096) == n_pages + 1


@given(st.binary(max_size=200))
def test_parse_header_when_given_anything_then_a_header_or_not_a_database(data):
    """No other exception comes out, whatever goes in."""
    with contextlib.suppress(NotADatabaseError):
        assert isinstance(parse_header(data), DatabaseHeader)


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (16, 3), (18, 3), (19, 3), (20, 255), (21, 63), (22, 0), (23, 1)]
)
def test_parse_header_when_a_field_is_impossible_then_not_a_database(tmp_path, offset, value):
    """The tests that SQLite makes before it opens a file."""
    raw = bytearray(make(tmp_path / "a.db", page_size=512)[:100])
    raw[offset] = value
    with pytest.raises(NotADatabaseError):
        parse_header(raw)


@given(st.binary(min_size=512, max_size=512), st.binary(min_size=12, max_size=12))
def test_with_bookkeeping_when_read_back_then_only_those_bytes_changed(page1, twelve):
    """A round trip that leaves every other byte alone."""
    changed = with_bookkeeping(page1, twelve)
    assert bookkeeping(changed) == twelve
    assert with_bookkeeping(changed, bookkeeping(page1)) == page1
    with pytest.raises(ValueError, match="12 bytes"):
        with_bookkeeping(page1, b"123")
