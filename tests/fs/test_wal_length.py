"""The length of a WAL behind which zeros were laid out."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from litemq.fs.wal_length import written_end


def a_wal(directory: Path, page_size: int, *, last: bytes) -> bytes:
    """What SQLite has written, with a last page that ends like this."""
    db = sqlite3.connect(directory / "a.db", isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE t(x)")
    db.execute("INSERT INTO t VALUES(?)", (last,))
    wal = (directory / "a.db-wal").read_bytes()
    db.close()
    return wal


def end_of(wal: bytes) -> int:
    return written_end(lambda offset, size: wal[offset : offset + size], len(wal))


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("zeros", [0, 1, 23, 500, 32 * 1024, 256 * 1024])
def test_written_end_when_zeros_follow_then_they_do_not_count(
    tmp_path: Path, page_size: int, zeros: int
) -> None:
    """Also those of a page that ends with zeros of its own count, and no others."""
    wal = a_wal(tmp_path, page_size, last=bytes(2000))
    assert end_of(wal + bytes(zeros)) == len(wal)


def test_written_end_when_a_frame_is_half_there_then_all_of_it_counts(tmp_path: Path) -> None:
    """Its page may be zeros so far; SQLite has written its header."""
    wal = a_wal(tmp_path, 512, last=b"x")
    cut = wal[: len(wal) - 512]
    assert end_of(cut) == len(cut)
    assert end_of(cut + bytes(5000)) == len(wal)


@pytest.mark.parametrize("data", [b"", bytes(5000), b"no WAL" * 999])
def test_written_end_when_it_is_no_wal_then_it_is_left_alone(data: bytes) -> None:
    """Nothing is known of it."""
    assert end_of(data) == len(data)
