"""A look without a lock where writes are cached: backing files show only what was written out."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from struct import Struct

import pytest
from sql_process import SqlProcess

from litemq.actors.undisturbed import Undisturbed
from litemq.fs.locks import PENDING_BYTE, WAL_CHECKPOINT_BYTE, WAL_WRITE_BYTE, committing
from litemq.fs.wal_tail import WalTail

FLOCK = Struct("hhqqi4x")


class Looked:
    """A database as programs have it, and beside it its backing files, which get nothing of what
    is written from now on.
    """

    def __init__(self, directory: Path, mode: str) -> None:
        self.path = directory / "mount.db"
        self.backing = directory / "backing.db"
        self.app = SqlProcess(self.path, timeout_s=0)
        self.app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
        self.fd = os.open(self.path, os.O_RDONLY)
        shutil.copy(self.path, self.backing)
        self.tail: WalTail | None = None
        if mode == "wal":
            shutil.copy(f"{self.path}-wal", f"{self.backing}-wal")
            self.tail = WalTail(f"{self.path}-wal", None, cached=True)
            assert self.tail.open()
            self.tail.use_index(os.open(f"{self.path}-shm", os.O_RDWR))

    def begin(self) -> Undisturbed | None:
        return Undisturbed.begin(self.fd, str(self.backing), self.tail, lambda: False, cached=True)

    def take(self) -> None:
        """What is published, as a comparison does before it reads."""
        while self.tail is not None and self.tail.collect(chain=self.tail.unshared):
            pass

    def close(self) -> None:
        self.app.close()
        if self.tail is not None:
            self.tail.close_index()
            self.tail.close()
        os.close(self.fd)


@pytest.fixture
def looked(tmp_path: Path) -> Iterator[Callable[[str], Looked]]:
    made: list[Looked] = []

    def make(mode: str) -> Looked:
        made.append(Looked(tmp_path, mode))
        return made[-1]

    yield make
    for each in made:
        each.close()


def still(
    looked: Looked, meanwhile: Callable[[], object], afterwards: Callable[[], object] = lambda: None
) -> bool:
    """Whether a look counts during which something was done, and more `afterwards`, when frames
    had been taken.
    """
    watch = looked.begin()
    assert watch is not None
    try:
        meanwhile()
        looked.take()
        afterwards()
        return watch.undisturbed()
    finally:
        watch.end()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_look_when_nobody_writes_or_all_only_read_then_it_counts(
    looked: Callable[[str], Looked], mode: str
) -> None:
    database = looked(mode)
    assert still(database, lambda: None)
    assert still(database, lambda: database.app.sql("SELECT * FROM t"))


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_look_when_the_kernel_writes_something_out_meanwhile_then_it_does_not_count(
    looked: Callable[[str], Looked], mode: str
) -> None:
    database = looked(mode)

    def written_out() -> None:
        with database.backing.open("r+b") as file:
            file.write(b"SQLite")

    assert not still(database, written_out)


def test_look_when_a_wal_goes_on_in_the_cache_then_it_counts(
    looked: Callable[[str], Looked],
) -> None:
    """What is published is laid over the file, which nobody writes; a transaction that is under way
    is in neither.
    """
    database = looked("wal")
    one_more = partial(database.app.sql, "INSERT INTO t VALUES(1)")
    assert still(database, one_more, one_more)
    assert still(database, lambda: database.app.script("BEGIN IMMEDIATE"))
    assert still(database, lambda: None)


@pytest.mark.parametrize("act", ["INSERT INTO t VALUES(2)", "PRAGMA wal_checkpoint(TRUNCATE)"])
def test_look_when_a_wal_starts_over_then_it_does_not_count(
    looked: Callable[[str], Looked], act: str
) -> None:
    """What was laid over the file is in it now, where the kernel has written that out."""
    database = looked("wal")
    database.app.sql("PRAGMA wal_checkpoint")
    assert not still(database, lambda: None, lambda: database.app.sql(act))


def test_look_when_not_all_was_taken_that_had_been_published_then_it_does_not_count(
    looked: Callable[[str], Looked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index can't be read in the moment of a commit. A checkpoint may have copied what lacks,
    before the look began.
    """
    database = looked("wal")
    with monkeypatch.context() as commit:
        commit.setattr(database, "take", lambda: None)
        assert not still(database, lambda: None)
    assert still(database, lambda: None)


def test_look_when_more_was_taken_than_is_published_then_it_does_not_count(
    looked: Callable[[str], Looked],
) -> None:
    """By the chain of checksums: the frames of a commit whose writer may die before its end."""
    database = looked("wal")
    index = Path(f"{database.path}-shm")
    database.take()
    before = index.read_bytes()
    database.app.sql("INSERT INTO t VALUES(1)")
    with index.open("r+b") as file:
        file.write(before[:96])
        file.flush()
        watch = database.begin()
        assert watch is not None
        assert database.tail is not None
        database.tail.collect(chain=True)
        assert not watch.undisturbed()
        watch.end()


def test_look_when_a_checkpoint_holds_every_lock_then_it_counts(
    looked: Callable[[str], Looked],
) -> None:
    """It waits for the log at its fsync, and whoever is alone holds them there."""
    database = looked("wal")
    with (
        open(f"{database.path}-shm", "r+b") as index,
        open(database.path, "r+b") as file,
    ):
        for opened, first in (
            (index, WAL_WRITE_BYTE), (index, WAL_CHECKPOINT_BYTE), (file, PENDING_BYTE)
        ):  # fmt: skip
            request = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, 1, 0)
            fcntl.fcntl(opened, fcntl.F_OFD_SETLK, request)
        assert committing(database.fd)
        assert still(database, lambda: None)


def test_look_when_nobody_shares_the_index_then_what_is_appended_disturbs(
    looked: Callable[[str], Looked],
) -> None:
    """The chain of checksums tells what is committed, and the file's length how far it may go."""
    database = looked("wal")
    database.app.kill()
    assert still(database, lambda: None)

    def appended() -> None:
        with open(f"{database.path}-wal", "ab") as wal:
            wal.write(b"frame")

    assert not still(database, appended)


def test_look_when_a_transaction_is_about_to_end_then_it_does_not_begin(
    looked: Callable[[str], Looked],
) -> None:
    database = looked("delete")
    assert not still(database, lambda: database.app.script("BEGIN EXCLUSIVE"))
    assert database.begin() is None
    database.app.sql("ROLLBACK")
    assert still(database, lambda: None)
