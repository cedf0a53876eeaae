"""The WAL and its index, against those of a real SQLite; damage is never taken for a commit."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from litemq.errors import FormatError
from litemq.fs import wal

PAGE_SIZE = 512


def run_transactions(path, count, page_size=PAGE_SIZE, seed=1):
    """A database in WAL mode with `count` commits in its log; keeps it open."""
    rng = random.Random(seed)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, x)")
    for _ in range(count - 1):
        db.execute("INSERT INTO t(x) VALUES (?)", (rng.randbytes(rng.choice((10, 2000))),))
    return db


def reader_of(data):
    return lambda offset, size: data[offset : offset + size]


def pages_of(commit, log, page_size=PAGE_SIZE):
    return {
        pgno: log[wal.frame_offset(frame, page_size) + wal.FRAME_HEADER_BYTES :][:page_size]
        for pgno, frame in commit.newest.items()
    }


def image_after(commits, log, data):
    pages = {}
    for commit in commits:
        pages.update(pages_of(commit, log))
        n_pages = commit.n_pages
    return b"".join(
        pages.get(pgno, data[(pgno - 1) * PAGE_SIZE :][:PAGE_SIZE])
        for pgno in range(1, n_pages + 1)
    )


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_index_and_log_when_sqlite_wrote_them_then_both_readers_agree(tmp_path, page_size):
    """Frames up to mxFrame split into the same transactions that the checksum chain proves."""
    db = run_transactions(tmp_path / "a.db", 20, page_size)
    log = (tmp_path / "a.db-wal").read_bytes()
    index = wal.parse_index_header((tmp_path / "a.db-shm").read_bytes())
    header = wal.parse_wal_header(log)
    assert header.page_size == index.page_size == page_size
    assert header.salts == index.salts
    assert header.big_endian == index.big_endian
    end = wal.frame_offset(index.mx_frame + 1, page_size)
    commits = wal.read_commits(log[32:end], page_size, first_frame=1, salts=header.salts)
    proven = list(wal.valid_commits(reader_of(log), header))
    assert len(commits) == len(proven) == 20
    for commit, valid in zip(commits, proven, strict=True):
        assert (commit.n_pages, commit.end_frame) == (valid.n_pages, valid.end_frame)
        assert {
            pgno: log[32 + offset :][:page_size] for pgno, offset in commit.pages.items()
        } == pages_of(valid, log, page_size)
    assert proven[-1].frame_checksum == index.frame_checksum
    assert (proven[-1].end_frame, proven[-1].n_pages) == (index.mx_frame, index.n_pages)
    before = (tmp_path / "a.db").read_bytes()
    db.execute("PRAGMA wal_checkpoint")
    if page_size == PAGE_SIZE:
        assert image_after(proven, log, before) == (tmp_path / "a.db").read_bytes()
    db.close()


def test_valid_commits_when_resumed_after_each_commit_then_the_rest_follows(tmp_path):
    """A commit carries what is needed to go on from it."""
    db = run_transactions(tmp_path / "a.db", 12)
    log = (tmp_path / "a.db-wal").read_bytes()
    header = wal.parse_wal_header(log)
    whole = list(wal.valid_commits(reader_of(log), header))
    for number, commit in enumerate(whole):
        rest = wal.valid_commits(
            reader_of(log),
            header,
            first_frame=commit.end_frame + 1,
            running=commit.frame_checksum,
        )
        assert list(rest) == whole[number + 1 :]
    db.close()


def test_read_commits_when_a_transaction_is_rolled_back_or_spilled_then_only_commits_count(
    tmp_path,
):
    """Frames of a spilled and rolled-back transaction are beyond mxFrame; page images repeat."""
    db = run_transactions(tmp_path / "a.db", 3)
    db.execute("PRAGMA cache_size=5")
    for end in ("ROLLBACK", "COMMIT"):
        db.execute("BEGIN")
        for _ in range(100):
            db.execute("INSERT INTO t(x) VALUES (?)", (os.urandom(400),))
            db.execute("UPDATE t SET x=x||'' WHERE k=1")
        db.execute(end)
    log = (tmp_path / "a.db-wal").read_bytes()
    index = wal.parse_index_header((tmp_path / "a.db-shm").read_bytes())
    end = wal.frame_offset(index.mx_frame + 1, PAGE_SIZE)
    commits = wal.read_commits(log[32:end], PAGE_SIZE, first_frame=1, salts=index.salts)
    assert len(commits) == 4
    proven = list(wal.valid_commits(reader_of(log), wal.parse_wal_header(log)))
    assert [c.end_frame for c in commits] == [c.end_frame for c in proven]
    db.close()


def test_read_commits_when_the_log_was_started_over_then_it_refuses(tmp_path):
    """Other salts mean that the bytes are of another log than the index was about."""
    db = run_transactions(tmp_path / "a.db", 3)
    log = (tmp_path / "a.db-wal").read_bytes()
    with pytest.raises(FormatError, match="frame 7"):
        wal.read_commits(log[32:], PAGE_SIZE, first_frame=7, salts=b"12345678")
    db.close()


@pytest.mark.parametrize("big_endian", [False, True])
def test_valid_commits_when_the_log_is_of_the_other_byte_order_then_it_is_read(big_endian):
    """A WAL may come from a machine of the other endianness."""
    head = struct.pack(">IIII8s", 0x377F0682 | big_endian, 3007000, PAGE_SIZE, 0, b"saltsalt")
    log = head + struct.pack(">II", *wal.checksum(head, big_endian=big_endian))
    header = wal.parse_wal_header(log)
    data = bytes(range(256)) * 2
    start = struct.pack(">II", 1, 1)
    running = wal.checksum(start, *header.checksum, big_endian=big_endian)
    running = wal.checksum(data, *running, big_endian=big_endian)
    log += start + b"saltsalt" + struct.pack(">II", *running) + data
    (commit,) = wal.valid_commits(reader_of(log), header)
    assert pages_of(commit, log) == {1: data}


@cache
def sample():
    with TemporaryDirectory() as directory:
        path = Path(directory, "a.db")
        db = run_transactions(path, 8)
        log, index = Path(f"{path}-wal").read_bytes(), Path(f"{path}-shm").read_bytes()
        db.close()
    return log, index


@given(st.data())
def test_valid_commits_when_the_log_is_cut_then_only_whole_transactions_remain(data):
    """A prefix of the log gives a prefix of the transactions."""
    log, _ = sample()
    header = wal.parse_wal_header(log)
    whole = list(wal.valid_commits(reader_of(log), header))
    cut = data.draw(st.integers(32, len(log)))
    left = list(wal.valid_commits(reader_of(log[:cut]), header))
    fits = [c for c in whole if wal.frame_offset(c.end_frame + 1, PAGE_SIZE) <= cut]
    assert left == fits


@given(st.data())
def test_valid_commits_when_any_byte_is_damaged_then_it_and_what_follows_is_refused(data):
    """No transaction whose frames were touched, and none after it, is ever given out."""
    log, _ = sample()
    position = data.draw(st.integers(0, len(log) - 1))
    damaged = bytearray(log)
    damaged[position] ^= data.draw(st.integers(1, 255))
    whole = list(wal.valid_commits(reader_of(log), wal.parse_wal_header(log)))
    try:
        header = wal.parse_wal_header(bytes(damaged))
    except FormatError:
        return
    assert position >= 32, "a damaged header was accepted"
    left = list(wal.valid_commits(reader_of(bytes(damaged)), header))
    fits = [c for c in whole if wal.frame_offset(c.end_frame + 1, PAGE_SIZE) <= position]
    assert left == fits


@given(st.integers(0, 95), st.integers(1, 255))
@example(0, 1)
def test_parse_index_header_when_a_byte_differs_then_none(position, flip):
    """Half-written headers are recognised: the copies differ, or the checksum does."""
    _, index = sample()
    assert wal.parse_index_header(index) is not None
    damaged = bytearray(index[:96])
    damaged[position] ^= flip
    assert wal.parse_index_header(bytes(damaged)) is None
    damaged[(position + 48) % 96] ^= flip
    if position % 48 not in (40, 41, 42, 43, 44, 45, 46, 47):
        assert wal.parse_index_header(bytes(damaged)) is None
    assert wal.parse_index_header(b"") is None
    assert wal.parse_index_header(bytes(96)) is None
