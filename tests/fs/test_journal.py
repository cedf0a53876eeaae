"""The rollback journal, as SQLite leaves it at each end of a transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.errors import FormatError
from litemq.fs import journal

PAGE_SIZE = 1024


def reader_of(data):
    return lambda offset, size: data[offset : offset + size]


def put_back(database, log):
    """What a rollback would make of the database."""
    pages = {}
    initial = None
    for segment in journal.segments(reader_of(log), len(log)):
        initial = segment.header.initial_pages if initial is None else initial
        for pgno, data in journal.records(reader_of(log), segment):
            pages.setdefault(pgno, data)
    return b"".join(
        pages.get(pgno, database[(pgno - 1) * PAGE_SIZE :][:PAGE_SIZE])
        for pgno in range(1, initial + 1)
    )


@cache
def hot():
    """A database and its journal in the middle of a transaction that spilled to the disk."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "a.db")
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        db.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, x)")
        db.executemany("INSERT INTO t(x) VALUES (?)", [(bytes([i]) * 700,) for i in range(200)])
        before = path.read_bytes()
        db.execute("PRAGMA cache_size=10")
        db.execute("BEGIN")
        db.execute("UPDATE t SET x=zeroblob(900)")
        database, log = path.read_bytes(), Path(f"{path}-journal").read_bytes()
        db.execute("ROLLBACK")
        db.close()
    return before, database, log


def test_segments_when_a_transaction_spilled_then_the_old_images_undo_it():
    """Several segments, each with its own nonce, together hold the database as it was."""
    before, database, log = hot()
    assert database != before
    assert journal.is_active(log)
    assert len(list(journal.segments(reader_of(log), len(log)))) > 1
    assert put_back(database, log) == before


@pytest.mark.parametrize("mode", ["PERSIST", "TRUNCATE", "DELETE"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_is_active_when_a_transaction_ended_then_it_is_not(tmp_path, mode, end):
    """Active from the first page on, and not active after the end, in every rollback mode."""
    path, log = tmp_path / "a.db", tmp_path / "a.db-journal"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE t(x)")
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("PRAGMA cache_size=1")
    db.execute("BEGIN")
    db.executemany("INSERT INTO t VALUES (?)", [(bytes(3000),)] * 50)
    assert journal.is_active(log.read_bytes())
    assert journal.parse_header(log.read_bytes()).page_size == 4096
    db.execute(end)
    left = log.read_bytes() if log.exists() else b""
    assert not journal.is_active(left)
    assert journal.is_header_zeroed(left)
    db.close()


@given(st.data())
def test_records_when_the_journal_is_cut_then_what_remains_is_a_prefix(data):
    """A torn journal gives fewer records, never other ones."""
    _, _, log = hot()

    def everything(log):
        return [
            record
            for segment in journal.segments(reader_of(log), len(log))
            for record in journal.records(reader_of(log), segment)
        ]

    cut = data.draw(st.integers(0, len(log)))
    left = everything(log[:cut])
    assert left == everything(log)[: len(left)]


@given(st.binary(max_size=64))
def test_parse_header_when_given_anything_then_a_header_or_a_format_error(data):
    """No other exception comes out; with the magic number in front as well."""
    for candidate in (data, journal.MAGIC + data):
        with contextlib.suppress(FormatError):
            assert journal.parse_header(candidate).sector_size >= 32
