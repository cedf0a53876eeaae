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
from litemq.errors import NotADatabaseError
from litemq.fs.sqlite_errors import BusyError
from litemq.txlog.store import DatabaseLog

PAGE_SIZE = 4096


class Primary:
    """Makes the records of a database in rollback mode."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "primary.db"
        self._log = DatabaseLog.open(directory / "primary", segment_bytes=1 << 20, node_id=1)
        self._sql = sqlite3.connect(self._path, isolation_level=None)
        self._sql.execute("CREATE TABLE t(x)")

    def commit(self, *, first: int = 1) -> bytes:
        """The next record, without pages before the `first`."""
        self._sql.execute("INSERT INTO t VALUES(hex(randomblob(3000)))")
        data = self._path.read_bytes()
        pages = [
            (at // PAGE_SIZE + 1, data[at : at + PAGE_SIZE])
            for at in range(0, len(data), PAGE_SIZE)
        ]
        record = self._log.prepare(
            1, pages[first - 1 :], commit=len(pages), page_size=PAGE_SIZE, timestamp_ms=0
        )
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


class Replica:
    """Its database, without a mount."""

    def __init__(self, directory: Path) -> None:
        self._layout = Layout(directory)
        self._layout.create()
        self.path = directory / "a.db"
        self.database = self._open(cached=False)

    def _open(self, *, cached: bool) -> ReplicaDatabase:
        return ReplicaDatabase(
            "a.db", self._layout, self.path, 1 << 20, backing=self.path, cached=cached
        )

    def reopen(self, *, clean: bool, cached: bool = False, empty: bool = False) -> ReplicaDatabase:
        """As after the end of its process, and perhaps of a mount that cached what it wrote."""
        self.database.close(clean=clean)
        if empty:
            self.path.write_bytes(b"")
        self.database = self._open(cached=cached)
        return self.database

    @property
    def shown(self) -> bytes:
        return self._layout.position("a.db").read_bytes()


@pytest.fixture
def replica(tmp_path: Path, primary: Primary) -> Iterator[Replica]:
    """It holds three transactions and has been looked at."""
    replica = Replica(tmp_path)
    for _ in range(3):
        apply(replica.database, primary.commit())
    assert not replica.database.differing_pages(nothing)
    replica.database.checked = True
    yield replica
    replica.database.close(clean=False)


@pytest.fixture
def database(replica: Replica) -> ReplicaDatabase:
    return replica.database


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


def test_file_when_it_was_cached_and_did_not_end_well_then_it_is_no_state_until_compared(
    replica: Replica,
) -> None:
    """It shows no position, for it may be of an earlier one, or of several."""
    assert replica.shown
    database = replica.reopen(clean=False, cached=True)
    assert database.lost
    assert not replica.shown
    assert database.differing_pages(nothing) == 0
    database.compared()
    assert replica.shown
    database.lose()
    assert not replica.shown


@pytest.mark.parametrize(("clean", "cached"), [(True, True), (False, False)])
def test_file_when_it_ended_well_or_was_never_cached_then_it_counts(
    replica: Replica, clean: bool, cached: bool
) -> None:
    """A page that a process has written outlives it, where no kernel keeps it back."""
    assert not replica.reopen(clean=clean, cached=cached).lost
    assert replica.shown


def test_file_when_it_is_empty_though_its_log_is_not_then_it_needs_a_repair(
    replica: Replica, primary: Primary
) -> None:
    """One transaction is not all of its pages."""
    record = primary.commit(first=2)
    database = replica.reopen(clean=False, empty=True)
    with pytest.raises(NotADatabaseError):
        apply(database, record)


@pytest.mark.parametrize("opened", [True, False])
def test_file_when_a_program_left_half_a_transaction_then_it_is_rolled_back_first(
    replica: Replica, *, opened: bool
) -> None:
    """Its journal comes late where the kernel cached it. Who only reads can't undo anything."""
    database = replica.database
    if not opened:
        database.close_writer()
    before = replica.path.read_bytes()
    with SqlProcess(replica.path) as program:
        program.script("PRAGMA journal_mode=DELETE", "PRAGMA cache_size=1", "BEGIN")
        program.sql("UPDATE t SET x = hex(randomblob(3000))")
        program.kill()
    assert replica.path.read_bytes() != before
    assert Path(f"{replica.path}-journal").stat().st_size
    assert database.differing_pages(nothing) == 0
    assert replica.path.read_bytes() == before


def test_file_when_it_was_emptied_as_the_primary_was_deposed_then_it_needs_a_repair(
    replica: Replica,
) -> None:
    """Else it would be shown as it is, and dropped everywhere when this node is the primary."""
    database = replica.database
    database.close_writer()
    replica.path.write_bytes(b"")
    database.unlogged = True
    assert database.log_rest(nothing) == 0
    assert not database.checked
    assert database.differing_pages(nothing) == database.log.n_pages
