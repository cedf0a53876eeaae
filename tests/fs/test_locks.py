"""OFD locks on SQLite's lock bytes, against SQLite in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from litemq.fs.locks import SharedLock, WalWriteLock, wal_writer_active, writer_active

CLIENT = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
for line in sys.stdin:
    try:
        rows = db.execute(line).fetchall()
        print(rows[0] if line.startswith("PRAGMA wal_checkpoint") else "ok", flush=True)
    except sqlite3.OperationalError as exc:
        print(exc, flush=True)
"""


@pytest.fixture
def client(tmp_path):
    """A function that runs one statement in another process's SQLite."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, tmp_path / "a.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def execute(sql):
        process.stdin.write(sql + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    assert execute("CREATE TABLE t(x)") == "ok"
    yield execute
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


@pytest.fixture
def fd(client, tmp_path):
    fd = os.open(tmp_path / "a.db", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_shared_lock_when_held_then_a_writer_cannot_commit(client, fd):
    """A reader's lock: SQLite may begin to write, and is busy at the commit."""
    lock = SharedLock(fd)
    assert lock.take()
    assert lock.take()
    assert client("BEGIN IMMEDIATE") == "ok"
    assert client("INSERT INTO t VALUES (1)") == "ok"
    assert client("COMMIT") == "database is locked"
    lock.release()
    lock.release()
    assert client("COMMIT") == "ok"


def test_shared_lock_when_a_writer_is_exclusive_then_it_is_refused_at_once(client, fd):
    """Not a wait, a plain no; and nothing is left locked behind it."""
    lock = SharedLock(fd)
    assert client("BEGIN EXCLUSIVE") == "ok"
    assert not lock.take()
    assert client("COMMIT") == "ok"
    assert client("BEGIN EXCLUSIVE") == "ok"
    assert client("COMMIT") == "ok"
    assert lock.take()


def test_shared_lock_when_another_descriptor_of_the_file_is_closed_then_it_stays(
    client, fd, tmp_path
):
    """What ordinary POSIX locks get wrong."""
    with SharedLock(fd) as lock:
        assert lock.take()
        os.close(os.open(tmp_path / "a.db", os.O_RDONLY))
        assert client("BEGIN EXCLUSIVE") == "database is locked"
    assert client("BEGIN EXCLUSIVE") == "ok"


def test_writer_active_when_someone_began_to_write_then_true(client, fd):
    """RESERVED is seen from outside, and gone after the end."""
    assert not writer_active(fd)
    assert client("BEGIN IMMEDIATE") == "ok"
    assert writer_active(fd)
    assert client("ROLLBACK") == "ok"
    assert not writer_active(fd)


def test_wal_write_lock_when_held_then_a_checkpoint_copies_and_only_a_restart_waits(
    client, tmp_path
):
    """SQLite's lock of checkpoints is not taken: whoever finds that one held fails at once."""
    assert client("PRAGMA journal_mode=WAL") == "ok"
    assert client("INSERT INTO t VALUES (1)") == "ok"
    index = os.open(tmp_path / "a.db-shm", os.O_RDWR)
    lock = WalWriteLock(os.dup(index))
    try:
        assert lock.take()
        assert lock.take()
        assert not wal_writer_active(index)  # to its holder
        assert client("INSERT INTO t VALUES (2)") == "database is locked"
        assert client("PRAGMA wal_checkpoint(PASSIVE)") == "(0, 1, 1)"
        assert client("PRAGMA wal_checkpoint(TRUNCATE)") == "(1, 1, 1)"
        assert client("PRAGMA busy_timeout=20000") == "ok"
        release = threading.Timer(0.3, lock.release)
        release.start()
        assert client("PRAGMA wal_checkpoint(TRUNCATE)") == "(0, 0, 0)"
        release.join()
        assert not lock.held
    finally:
        os.close(index)
