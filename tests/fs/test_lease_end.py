"""A lease that ends while a call is at the disk: no program is told that its transaction counts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from litemq.fs.capture import DatabaseCapture
from litemq.fs.files import Leaving
from litemq.fs.journal import MAGIC
from litemq.fs.sqlite_files import JournalFile, WalFile

FRAME = bytes(24 + 4096)


class SlowDisk:
    """A primary's gatekeeper, whose lease ends while the disk is at work (`ends`)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ends = False
        self.gatekeeper = MagicMock()
        self.gatekeeper.fenced, self.gatekeeper.refuse_errno = False, 0
        self.gatekeeper.hand_over = AsyncMock()
        self.gatekeeper.store_in_page_cache = AsyncMock()
        self.gatekeeper.unexplained_pending.return_value = False
        for call in ("pwrite", "ftruncate", "unlink"):
            monkeypatch.setattr(os, call, self._slow(getattr(os, call)))
        self.gatekeeper.remove = os.unlink

    def _slow(self, call: Any) -> Any:
        def slow(*args: Any, **kwargs: Any) -> Any:
            done = call(*args, **kwargs)
            self.gatekeeper.fenced = self.ends
            return done

        return slow

    def refused(self) -> contextlib.AbstractContextManager[Any]:
        return pytest.raises(OSError) if self.ends else contextlib.nullcontext()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def check(disk: SlowDisk, refused: Any) -> None:
    if disk.ends:
        assert refused.value.errno == errno.EROFS


@pytest.mark.parametrize("ends", [True, False])
def test_wal_when_the_lease_ends_during_a_write_then_the_write_is_refused(
    tmp_path: Path, disk: SlowDisk, *, ends: bool
) -> None:
    """Without a sync it is the last that SQLite asks before it publishes its commit."""
    wal = WalFile(
        2, "a.db-wal", str(tmp_path / "a.db-wal"), DatabaseCapture("a.db"), disk.gatekeeper
    )
    wal.create(0o644)
    asyncio.run(wal.write(0, bytes(32)))
    disk.ends = ends
    with disk.refused() as refused:
        assert asyncio.run(wal.write(32, FRAME)) == len(FRAME)
    check(disk, refused)
    assert wal.capture.wal_end == 32 + len(FRAME)


@pytest.mark.parametrize("how", ["delete", "truncate", "persist"])
@pytest.mark.parametrize("ends", [True, False])
def test_journal_when_the_lease_ends_while_it_ends_then_its_program_is_not_told_of_a_commit(
    tmp_path: Path, disk: SlowDisk, how: str, *, ends: bool
) -> None:
    """The transaction has ended on this disk, and goes to the log all the same."""
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as db:
        db.execute("CREATE TABLE t (x)")
    capture = DatabaseCapture("a.db")
    path = str(tmp_path / "a.db-journal")
    journal = JournalFile(2, "a.db-journal", path, capture, disk.gatekeeper)
    journal.create(0o644)
    asyncio.run(journal.write(0, MAGIC + bytes(504)))
    capture.note_write(0, 4096)
    disk.ends = ends
    with disk.refused() as refused:
        match how:
            case "delete":
                asyncio.run(journal.leave(_unlink(journal), Leaving(by_sqlite=True)))
            case "truncate":
                asyncio.run(journal.truncate(0))
            case _:
                asyncio.run(journal.write(0, bytes(28)))
    check(disk, refused)
    (_, commit), _ = disk.gatekeeper.hand_over.await_args
    assert (commit.numbers, capture.journal_active) == ([1], False)


def _unlink(journal: JournalFile) -> Any:
    async def unlink() -> None:
        journal.remove()

    return unlink
