"""What of a database has to be compared when its file gets another length."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litemq.fs.cached_files import CachedDatabaseFile
from litemq.fs.capture import DatabaseCapture
from litemq.fs.sqlite_files import DatabaseFile

PAGE = 4096


class Primary:
    """A gatekeeper where nobody checkpoints; it counts what is to be looked at."""

    capturing = True
    refuse_errno = 0
    fenced = read_only = False

    def __init__(self) -> None:
        self.looks = 0

    def checkpointing(self, _database: str) -> bool:
        return False

    def rollback_writer(self, _database: str, _thread: int | None = None) -> bool:
        return False

    def unexplained_pending(self, _database: str) -> bool:
        return False

    def settle_later(self, _capture: DatabaseCapture) -> None:
        self.looks += 1


def of_two_pages(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA page_size = {PAGE}")
        database.execute("CREATE TABLE t(x)")
        database.commit()


def longer(path: Path) -> None:
    """As a transaction leaves it that has freed the last page."""
    of_two_pages(path)
    with path.open("ab") as file:
        file.write(b"x" * PAGE)


def of_an_old_version(path: Path) -> None:
    """Which counts its changes, and does not tell a size."""
    longer(path)
    with path.open("r+b") as file:
        file.seek(24)
        file.write((99).to_bytes(4, "big"))


def in_wal_mode(path: Path) -> None:
    longer(path)
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\2\2")


def encrypted(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * (3 * PAGE // 256))


@pytest.mark.parametrize("role", [DatabaseFile, CachedDatabaseFile])
@pytest.mark.parametrize(
    ("made", "pages", "expected"),
    [
        (longer, 2, False),
        (longer, 3, False),
        (longer, 5, False),
        (longer, 1, True),
        (longer, 0, True),
        (of_an_old_version, 2, True),
        (in_wal_mode, 2, True),
        (encrypted, 2, True),
    ],
)
def test_database_when_its_file_gets_another_length_then_pages_of_it_are_compared(
    tmp_path: Path,
    role: type[DatabaseFile],
    made: Callable[[Path], None],
    pages: int,
    expected: bool,
) -> None:
    """What is cut off behind its end is none of it: that is how SQLite ends a VACUUM."""
    path = tmp_path / "a.db"
    made(path)
    capture, gatekeeper = DatabaseCapture("a.db"), Primary()
    known: Any = gatekeeper
    file = role(7, "a.db", str(path), capture, known)
    asyncio.run(file.truncate(pages * PAGE))
    assert path.stat().st_size == pages * PAGE
    assert capture.everything is expected
    assert gatekeeper.looks == expected


@pytest.mark.parametrize("role", [DatabaseFile, CachedDatabaseFile])
def test_database_when_cut_while_a_wal_has_frames_then_all_is_compared(
    tmp_path: Path, role: type[DatabaseFile]
) -> None:
    """Its header may be older than the pages that a checkpoint has brought."""
    path = tmp_path / "a.db"
    longer(path)
    capture = DatabaseCapture("a.db")
    capture.wal_end = 32 + 24 + PAGE
    known: Any = Primary()
    asyncio.run(role(7, "a.db", str(path), capture, known).truncate(2 * PAGE))
    assert capture.everything


@pytest.mark.parametrize("role", [DatabaseFile, CachedDatabaseFile])
def test_database_when_cut_by_a_transaction_then_its_end_tells_the_pages(
    tmp_path: Path, role: type[DatabaseFile]
) -> None:
    path = tmp_path / "a.db"
    longer(path)
    capture = DatabaseCapture("a.db")
    capture.journal_active = True
    known: Any = Primary()
    asyncio.run(role(7, "a.db", str(path), capture, known).truncate(PAGE))
    assert not capture.everything
