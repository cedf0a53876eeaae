"""A database is undisturbed only if nobody wrote it and nobody was about to; and nobody notices."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from litemq.actors.undisturbed import Undisturbed

Parts = tuple[sqlite3.Connection, Path, int]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """A connection without a busy timeout, its database, and a descriptor of that."""
    path = tmp_path / "a.db"
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    db.execute("PRAGMA journal_mode=memory")
    db.execute("CREATE TABLE t(x)")
    fd = os.open(path, os.O_RDONLY)
    yield db, path, fd
    db.close()
    os.close(fd)


def begin(parts: Parts, *, journal: bool = False) -> Undisturbed | None:
    return Undisturbed.begin(parts[2], str(parts[1]), None, lambda: journal)


def test_undisturbed_when_nobody_writes_then_it_says_so(parts: Parts) -> None:
    """Readers do not count, nor does a transaction that has written nothing yet."""
    watch = begin(parts)
    assert watch is not None
    parts[0].execute("SELECT * FROM t").fetchall()
    parts[0].execute("BEGIN IMMEDIATE")
    assert watch.undisturbed()
    parts[0].execute("COMMIT")
    watch.end()


def test_undisturbed_when_a_transaction_has_come_and_gone_then_it_says_no(parts: Parts) -> None:
    """At both ends nobody holds a lock."""
    watch = begin(parts)
    assert watch is not None
    parts[0].execute("INSERT INTO t VALUES(1)")
    assert not watch.undisturbed()
    watch.end()


def test_undisturbed_when_somebody_may_write_at_its_end_then_it_says_no(parts: Parts) -> None:
    """What has been read may be followed by a write, or be one that is under way."""
    watch = begin(parts)
    assert watch is not None
    parts[0].execute("BEGIN EXCLUSIVE")
    assert not watch.undisturbed()
    parts[0].execute("COMMIT")
    assert watch.undisturbed()
    watch.end()


def test_undisturbed_when_it_is_not_at_rest_then_it_does_not_begin(parts: Parts) -> None:
    """A lock of a writer, a journal, a WAL that nobody follows, a file that is gone."""
    parts[0].execute("BEGIN EXCLUSIVE")
    assert begin(parts) is None
    parts[0].execute("COMMIT")
    assert begin(parts, journal=True) is None
    wal = Path(f"{parts[1]}-wal")
    wal.touch()
    assert begin(parts) is None
    wal.unlink()
    os.rename(parts[1], f"{parts[1]}-old")
    assert begin(parts) is None
    os.rename(f"{parts[1]}-old", parts[1])


def test_undisturbed_when_the_file_is_replaced_then_it_says_no(parts: Parts) -> None:
    """What would be compared is another file."""
    watch = begin(parts)
    assert watch is not None
    other = parts[1].with_name("other")
    other.write_bytes(parts[1].read_bytes())
    os.rename(other, parts[1])
    assert not watch.undisturbed()
    watch.end()


def test_undisturbed_when_it_watches_then_no_program_is_locked_out(parts: Parts) -> None:
    """Exclusive locks are had at once."""
    watch = begin(parts)
    assert watch is not None
    for _ in range(3):
        parts[0].execute("BEGIN EXCLUSIVE")
        parts[0].execute("COMMIT")
    watch.end()
