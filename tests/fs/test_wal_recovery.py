"""SQLite's own recovery of a WAL, and the walk along its checksums: they stop at the same frame."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litemq.fs import wal_tail
from litemq.fs.wal import frame_offset, parse_wal_header, valid_commits
from litemq.fs.wal_recovery import recover
from litemq.fs.wal_tail import WalTail


def grow(path: Path, page_size: int, commits: int) -> bytes:
    """The WAL of a database that nobody has checkpointed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size={page_size}")
        database.execute("PRAGMA journal_mode=wal")
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("CREATE TABLE IF NOT EXISTS t(x)")
        for number in range(commits):
            database.execute("INSERT INTO t VALUES(randomblob(?))", (number * 97 % 3000,))
        return Path(f"{path}-wal").read_bytes()


@pytest.fixture
def wal(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "w-wal"
    assert not (tmp_path / "recovery").exists(), "nothing stays behind"


def walked(path: Path) -> tuple[int, int, tuple[int, int]] | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        header = parse_wal_header(os.pread(fd, 32, 0))
        commits = list(valid_commits(lambda at, size: os.pread(fd, size, at), header))
    finally:
        os.close(fd)
    last = commits[-1] if commits else None
    return (last.end_frame, last.n_pages, last.frame_checksum) if last is not None else None


def recovered(path: Path, page_size: int) -> tuple[int, int, tuple[int, int]] | None:
    fd = os.open(path, os.O_RDONLY)
    before = path.read_bytes(), os.fstat(fd).st_mtime_ns
    try:
        index = recover(fd, page_size, path.parent / "recovery", lambda: None)
        assert (path.read_bytes(), os.fstat(fd).st_mtime_ns, os.fstat(fd).st_nlink) == (*before, 1)
    finally:
        os.close(fd)
    if index is None or not index.mx_frame:
        return None
    return index.mx_frame, index.n_pages, index.frame_checksum


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_recovery_when_a_wal_is_whole_torn_or_damaged_then_it_stops_where_the_walk_does(
    tmp_path: Path, wal: Path, page_size: int
) -> None:
    """And changes nothing of it."""
    whole = grow(tmp_path / "a.db", page_size, 20)
    rng = random.Random(page_size)
    for case in range(12):
        data = bytearray(whole)
        if case % 3 == 1:
            del data[rng.randrange(32, len(data)) :]
        elif case % 3 == 2:
            data[rng.randrange(32, len(data))] ^= 1 << rng.randrange(8)
        wal.write_bytes(data)
        assert recovered(wal, page_size) == walked(wal), case


def test_recovery_when_there_can_be_no_link_then_there_is_none(tmp_path: Path, wal: Path) -> None:
    """The walk does it then, however long that takes."""
    wal.write_bytes(grow(tmp_path / "a.db", 4096, 3))
    fd = os.open(wal, os.O_RDONLY)
    try:
        assert recover(fd, 4096, Path("/proc/none"), lambda: None) is None
    finally:
        os.close(fd)


def test_tail_when_much_is_behind_then_what_it_takes_is_what_the_walk_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when part of it has been taken before, and frames behind the last commit are torn."""
    data = grow(tmp_path / "a.db", 4096, 40)
    wal = tmp_path / "b.db-wal"
    wal.write_bytes(data[: frame_offset(20, 4096)] + data[frame_offset(20, 4096) : -100])
    taken = []
    for recovery in (None, tmp_path / "recovery"):
        monkeypatch.setattr(wal_tail, "RECOVER_BYTES", 0)
        monkeypatch.setattr(wal_tail, "READ_BYTES", 20_000)
        with closing(WalTail(str(wal), None, recovery=recovery)) as tail:
            assert tail.open()
            found = []
            while commits := tail.collect(chain=True):
                found += [(each.offset, each.size, each.n_pages, list(each.pages))
                          for each in commits]  # fmt: skip
            taken.append((found, tail.captured_end))
    assert taken[0] == taken[1]
    assert len(taken[0][0]) > 30
