"""A transaction whose journal is in memory, or that has none: it ends by a sync."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import pytest

from litemq.fs.cached_files import CachedDatabaseFile
from litemq.fs.capture import DatabaseCapture
from litemq.fs.sqlite_files import DatabaseFile

PAGE = 4096


@pytest.fixture
def gatekeeper() -> MagicMock:
    """A primary's, on whose databases SQLite's locks are seen."""
    gatekeeper = MagicMock(fenced=False, refuse_errno=0, capturing=True, read_only=False)
    gatekeeper.hand_over = AsyncMock()
    gatekeeper.unexplained_pending.return_value = False
    gatekeeper.rollback_writer.return_value = True
    return gatekeeper


@pytest.fixture(params=[DatabaseFile, CachedDatabaseFile])
def file(request: pytest.FixtureRequest, tmp_path: Path, gatekeeper: MagicMock) -> DatabaseFile:
    """Whose second page has been written."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as app:
        app.execute(f"PRAGMA page_size = {PAGE}")
        app.execute("CREATE TABLE t(x)")
    made: DatabaseFile = request.param(7, "a.db", str(path), DatabaseCapture("a.db"), gatekeeper)
    made.open(writing=True)
    asyncio.run(made.write(PAGE, b"x" * PAGE))
    return made


def test_sync_when_sqlite_writes_then_the_pages_are_handed_over(
    file: DatabaseFile, gatekeeper: MagicMock
) -> None:
    """Nobody has to find a quiet moment for a comparison, or to lock the database for it."""
    asyncio.run(file.fsync())
    _, commit = gatekeeper.hand_over.await_args.args
    assert (commit.numbers, commit.data) == ([2], b"x" * PAGE)
    gatekeeper.unexplained.assert_not_called()


def test_sync_when_another_program_asks_for_it_then_all_is_compared_later(
    file: DatabaseFile, gatekeeper: MagicMock
) -> None:
    """As a backup does, in the middle of a transaction."""
    writer, other = 4711, 4712
    gatekeeper.rollback_writer.side_effect = lambda _, thread=writer: thread == writer
    asyncio.run(file.fsync(other))
    gatekeeper.hand_over.assert_not_awaited()
    gatekeeper.unexplained.assert_called_once()


def test_file_when_sqlite_cuts_it_in_a_transaction_then_nothing_is_handed_over(
    file: DatabaseFile, gatekeeper: MagicMock
) -> None:
    """As a rollback does first: what was written until then has never been committed."""
    asyncio.run(file.truncate(PAGE))
    gatekeeper.hand_over.assert_not_awaited()


def test_sync_when_nobody_holds_sqlites_lock_then_all_is_compared_later(
    file: DatabaseFile, gatekeeper: MagicMock
) -> None:
    """A program that copies a file syncs in the middle of it, perhaps."""
    gatekeeper.rollback_writer.return_value = False
    asyncio.run(file.fsync())
    gatekeeper.hand_over.assert_not_awaited()
    gatekeeper.unexplained.assert_called_once()


def test_sync_when_the_lease_has_ended_then_it_is_refused(
    file: DatabaseFile, gatekeeper: MagicMock
) -> None:
    """SQLite would tell its program that the transaction counts."""
    gatekeeper.fenced = True
    with pytest.raises(OSError, match="Read-only"):
        asyncio.run(file.fsync())
