"""One database of a replica, without sockets: what others do to its file is not overlooked."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sql_process import SqlProcess

from litemq.actors.layout import Layout
from litemq.actors.replica_database import ReplicaDatabase
from litemq.fs.dbpage import BusyError
from litemq.txlog.store import DatabaseLog

PAGE_SIZE = 4096


class Primary:
    """Makes the records of a database in rollback mode."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "primary.db"
        self._log = DatabaseLog.open(directory / "primary", segment_bytes=1 << 20, node_id=1)
        self._sql = sqlite3.connect(self._path, isolation_level=None)
        self._sql.execute("CREATE TABLE t(x)")

    def commit(self) -> bytes:
        self._sql.execute("INSERT INTO t VALUES(hex(randomblob(3000)))")
        data = self._path.read_bytes()
        pages = [
            (at // PAGE_SIZE + 1, data[at : at + PAGE_SIZE])
            for at in range(0, len(data), PAGE_SIZE)
        ]
        record = self._log.prepare(1, pages, commit=len(pages), page_size=PAGE_SIZE, timestamp_ms=0)
        assert record is not None
        self._log.flush()
        return record

    def close(self) -> None:
        self._sql.close()
        self._log.close(clean=False)


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with closing(Primary(tmp_path)) as primary:
        yield primary


@pytest.fixture
def database(tmp_path: Path, primary: Primary) -> Iterator[ReplicaDatabase]:
    """Without a mount; it holds three transactions and has been looked at."""
    layout = Layout(tmp_path)
    layout.create()
    path = tmp_path / "a.db"
    database = ReplicaDatabase("a.db", layout, path, 1 << 20, backing=path)
    for _ in range(3):
        apply(database, primary.commit())
    assert not database.differing_pages(nothing)
    database.checked = True
    yield database
    database.close(clean=False)


def apply(database: ReplicaDatabase, record: bytes) -> None:
    database.take(record, 1)
    database.flush()
    while database.apply(nothing):
        pass


def tamper(path: Path) -> None:
    """In the last page, past SQLite."""
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"tampered")


def nothing() -> None:
    pass


def test_file_when_it_is_looked_at_while_it_is_changed_then_the_next_look_finds_it(
    database: ReplicaDatabase,
) -> None:
    """A look that somebody's lock stops has seen nothing."""
    with SqlProcess(database.path) as other:
        other.sql("BEGIN EXCLUSIVE")
        tamper(database.path)
        assert database.touched
        with pytest.raises(BusyError):
            database.differing_pages(nothing)
    assert database.touched
    assert database.differing_pages(nothing) == 1
    assert not database.touched


def test_file_when_it_is_changed_between_two_transactions_then_it_is_to_be_compared(
    database: ReplicaDatabase, primary: Primary
) -> None:
    """Applying the second does not make the change look like ours."""
    apply(database, primary.commit())
    assert database.checked
    apply(database, primary.commit())
    assert database.checked
    record = primary.commit()
    tamper(database.path)
    apply(database, record)
    assert not database.checked
