"""The header of a database, against databases that SQLite made."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import struct
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.errors import NotADatabaseError, NotInTheClearError
from litemq.fs.btree import check_schema_page
from litemq.fs.pages import (
    DatabaseHeader,
    bookkeeping,
    database_size,
    parse_header,
    read_header,
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


def encrypted_from(raw: bytes, clear: int) -> bytes:
    """As SQLCipher and SQLite3MC leave a database whose first bytes they are to leave alone."""
    noise = random.Random(clear).randbytes(len(raw))
    mixed = bytearray(noise)
    mixed[:clear] = raw[:clear]
    return bytes(mixed)


@pytest.mark.parametrize("clear", [24, 32, 48, 64, 80, 96, 100])
def test_header_when_the_rest_is_encrypted_then_it_is_none_in_the_clear(tmp_path, clear):
    """However many bytes of the header are left as they were."""
    raw = encrypted_from(make(tmp_path / "a.db"), clear)
    with pytest.raises(NotInTheClearError):
        read_header(lambda size: raw[:size])


@pytest.mark.parametrize("clear", [112, 128, 256])
def test_first_page_when_it_is_encrypted_behind_its_head_then_it_holds_no_schema(tmp_path, clear):
    """The head of the page says that there are rows; there are none."""
    raw = encrypted_from(make(tmp_path / "a.db"), clear)
    usable = 4096 - read_header(lambda size: raw[:size]).reserved_bytes
    with pytest.raises(NotInTheClearError):
        check_schema_page(raw[:4096], usable)


@pytest.mark.parametrize("written", [16, 21, 24, 40, 99, 100, 104])
def test_header_when_half_written_then_it_is_no_database(tmp_path, written):
    """The rest is zeros, as in a file that grows."""
    raw = make(tmp_path / "a.db")[:written].ljust(4096, b"\0")
    with pytest.raises(NotADatabaseError):
        read_header(lambda size: raw[:size])


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (47, 5),
        (44, 1),
        (59, 4),
        (56, 1),
        (72, 1),
        (91, 1),
        (100, 10),
        (100, 2),
        (105, 255),
    ],
)
def test_header_when_it_holds_what_the_format_rules_out_then_it_is_no_database(tmp_path, at, value):
    """Schema format, text encoding, what is reserved, the head of the schema's b-tree page."""
    raw = bytearray(make(tmp_path / "a.db"))
    raw[at] = value
    with pytest.raises(NotInTheClearError):
        read_header(lambda size: raw[:size])


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_header_when_a_schema_comes_and_goes_then_it_is_always_one(tmp_path, page_size, encoding):
    """Without a table, with hundreds (an interior page), and with none again; after a VACUUM."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute(f"PRAGMA encoding='{encoding}'")
        db.execute("PRAGMA user_version=1")
        steps = [f"CREATE TABLE t{n}(x DEFAULT '{'y' * (n * 61 % 900)}')" for n in range(40)]
        for step in ["", *steps, *(f"DROP TABLE t{n}" for n in range(40)), "VACUUM"]:
            db.execute(step)
            raw = path.read_bytes()
            header = read_header(lambda size, raw=raw: raw[:size])
            assert header.page_size == page_size
            check_schema_page(raw[:page_size], page_size)


def test_header_when_an_old_sqlite_wrote_it_then_it_is_one(tmp_path):
    """It knew neither the count of pages nor the version that wrote last."""
    raw = bytearray(make(tmp_path / "a.db"))
    raw[28:32], raw[92:100] = bytes(4), bytes(8)
    header = read_header(lambda size: bytes(raw[:size]))
    assert database_size(header, len(raw)) == len(raw) // 4096


@pytest.mark.parametrize("checksum", [True, False])
def test_header_when_pages_bear_the_checksums_of_sqlites_vfs_then_it_is_refused(tmp_path, checksum):
    """Eight reserved bytes alone are no reason: anybody may reserve some."""
    path = tmp_path / "a.db"
    make(path)
    page1 = bytearray(path.read_bytes()[:4096])
    page1[20] = 8
    page1[105:107] = (struct.unpack_from(">H", page1, 105)[0] - 8).to_bytes(2, "big")
    s1 = s2 = 0
    for even, odd in struct.iter_unpack("<II", page1[:-8]):
        s1 = (s1 + even + s2) % 2**32
        s2 = (s2 + odd + s1) % 2**32
    page1[-8:] = struct.pack("<II", s1, s2) if checksum else bytes(8)
    if checksum:
        with pytest.raises(NotInTheClearError, match="checksum VFS"):
            read_header(lambda size: bytes(page1[:size]))
    else:
        assert read_header(lambda size: bytes(page1[:size])).reserved_bytes == 8
