"""A look without a lock where writes are cached: backing files show only what was written out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sql_process import SqlProcess

from litemq.actors.undisturbed import Undisturbed
from litemq.fs.wal_tail import WalTail


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


def still(looked: Looked, meanwhile: Callable[[], object]) -> bool:
    watch = looked.begin()
    assert watch is not None
    try:
        meanwhile()
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


def test_look_when_a_wal_goes_on_in_the_cache_then_it_does_not_count(
    looked: Callable[[str], Looked],
) -> None:
    """The index tells of a commit, also of one that a checkpoint follows, and the lock of one that
    is under way.
    """
    database = looked("wal")
    assert not still(database, lambda: database.app.sql("INSERT INTO t VALUES(1)"))
    database.app.sql("PRAGMA wal_checkpoint")
    assert not still(database, lambda: database.app.sql("INSERT INTO t VALUES(2)"))
    assert not still(database, lambda: database.app.script("BEGIN IMMEDIATE"))
    assert database.begin() is None
    database.app.sql("ROLLBACK")
    assert still(database, lambda: None)


def test_look_when_a_transaction_is_about_to_end_then_it_does_not_begin(
    looked: Callable[[str], Looked],
) -> None:
    database = looked("delete")
    assert not still(database, lambda: database.app.script("BEGIN EXCLUSIVE"))
    assert database.begin() is None
    database.app.sql("ROLLBACK")
    assert still(database, lambda: None)
