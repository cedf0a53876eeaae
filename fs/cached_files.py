"""SQLite's files where the kernel caches writes: what their delayed writes mean for capture.

With `write-back` a write stays in the kernel's page cache. It comes here whole pages at a time:
when its program syncs or closes the file, when the kernel wants to, or when the log writer asks for
it. So a write says nothing about when it was made, and it is never refused: the page would be lost
to those who still read it. What is refused is refused at the sync, where SQLite asks.

Owns what syncs, truncations and unlinks of such files mean. Always true: pages of the database that
came since the last commit are in `dirty`, in WAL mode, too, until a gate has shown that the log has
them; a journal's end is a commit only if the database was synced while the journal was active.
"""

from __future__ import annotations

import os
from errno import EDQUOT, ENOSPC
from time import monotonic

from litemq.fs.capture import ZEROED_JOURNAL_HEADER, Commit
from litemq.fs.files import Act, File, Leaving, write_all
from litemq.fs.journal import is_active
from litemq.fs.sqlite_files import DatabaseFile, JournalFile, WalFile
from litemq.fs.write_out import start_write_out


async def _write_when_there_is_room(file: File, offset: int, data: bytes) -> int:
    """For what its writer believes to be written: what is refused here is lost to all readers."""
    written = 0
    while written < len(data):
        try:
            written += os.pwrite(file.fd, data[written:], offset + written)
        except OSError as error:
            if error.errno not in (ENOSPC, EDQUOT):
                raise
            await file.gatekeeper.wait_for_room(file.name)
    return written


class CachedDatabaseFile(DatabaseFile):
    """A database whose pages come when they are synced, or later."""

    __slots__ = ()

    async def write(self, offset: int, data: bytes) -> int:
        if self.gatekeeper.capturing:
            # noted before the write: a write that fails half way has changed bytes too
            self.capture.note_write(offset, len(data))
            if not self.capture.journal_active:
                self._unexplained_change()
            return write_all(self.fd, data, offset)
        return await _write_when_there_is_room(self, offset, data)

    async def truncate(self, size: int) -> None:
        if self.gatekeeper.capturing and not self._cut_by_sqlite(size) and self._lacks(size):
            await self._rest_is_logged()
            self.capture.everything = True
            self._unexplained_change()
        self._resize(size)

    def _cut_by_sqlite(self, size: int) -> bool:
        capture = self.capture
        in_wal_mode = capture.wal_end > 0 and size > 0
        return capture.journal_active or (
            in_wal_mode and self.gatekeeper.checkpointing(capture.name)
        )

    async def fsync(self, opener: int | None = None) -> None:
        self._refuse_if_fenced()
        os.fdatasync(self.fd)
        capture = self.capture
        if not self.gatekeeper.capturing:
            return
        if capture.wal_end:
            if not self.gatekeeper.checkpointing(capture.name):
                self.report_unexplained()
            await self._checkpoint_ended()
        elif capture.journal_active:
            capture.synced = True
        else:
            await self._end_without_journal(opener)
            self.report_unexplained()

    async def _checkpoint_ended(self) -> None:
        """SQLite may start the WAL over now: what it holds must be in the log first."""
        capture = self.capture
        await capture.forget_behind(self.gatekeeper.wal_gate(capture))
        if capture.claimed and not capture.proof_timer:
            capture.touched_s = monotonic()
            self.gatekeeper.prove_later(capture)

    @property
    def explained(self) -> bool:
        """In WAL mode, too, pages may come that no gate accounts for: with synchronous=OFF."""
        return self.capture.journal_active

    def opened_for_writing(self) -> None:
        if self.gatekeeper.capturing:
            self.gatekeeper.database_opened(self.name)

    def appeared(self) -> None:
        super().appeared()
        if self.writers:
            self.opened_for_writing()

    def written_to_the_end(self) -> None:
        super().written_to_the_end()
        if self.gatekeeper.capturing and not self.unlinked:
            self.gatekeeper.database_closed(self.name)

    async def leave(self, act: Act, leaving: Leaving) -> None:
        async def closed() -> None:
            await act()
            if self.writers:
                self.gatekeeper.database_closed(self.name)

        await super().leave(closed, leaving)

    def moved_away(self) -> None:
        super().moved_away()
        if self.writers:
            self.gatekeeper.database_closed(self.name)


class CachedJournalFile(JournalFile):
    """A rollback journal. It comes when SQLite syncs it, before the database is written."""

    __slots__ = ()

    def open(self, *, writing: bool) -> None:
        super().open(writing=writing)
        # what its writer synced is undone by who plays it back, perhaps without a sync
        self.capture.synced = False

    async def write(self, offset: int, data: bytes) -> int:
        if self.unlinked:  # its program died: that comes late, and says nothing any more
            return write_all(self.fd, data, offset)
        if offset == 0 and data.startswith(ZEROED_JOURNAL_HEADER):
            self._check_may_end()

            async def blank() -> None:
                write_all(self.fd, data, 0)

            await self._end_by(self._take_synced(), blank)
            return len(data)
        if offset == 0:
            self.look_at_head(data)
            self.capture.journal_active = self.capture.journal_active or is_active(data)
        return write_all(self.fd, data, offset)

    async def fsync(self) -> None:
        self.check_writable()
        await super().fsync()

    async def truncate(self, size: int) -> None:
        if size:
            self._resize(size)
            return
        self._check_may_end()

        async def cut() -> None:
            self._resize(0)

        await self._end_by(self._take_synced(), cut)

    async def leave(self, act: Act, leaving: Leaving) -> None:  # noqa: ARG002 - as File's
        self._check_may_end()
        await self._end_by(self._take_synced(), act)

    def _check_may_end(self) -> None:
        # whatever its pages are: they may not have come yet
        self._refuse_if_fenced()

    def _take_synced(self) -> Commit | None:
        """The transaction's pages, if all of them have come.

        Those of others (synchronous=OFF) come when the kernel writes them, and are compared then.
        """
        synced, self.capture.synced = self.capture.synced, False
        return self._take() if synced else None

    async def _ended(self, commit: Commit | None) -> None:
        await super()._ended(commit)
        if self.capture.changed and not self.capture.settle_timer:
            self.gatekeeper.settle_later(self.capture)


class CachedWalFile(WalFile):
    """A write-ahead log. The log writer reads it in the mount, where it is whole."""

    __slots__ = ()

    async def write(self, offset: int, data: bytes) -> int:
        if offset == 0:
            self.look_at_head(data)
        # committed, perhaps, without a sync
        written = await _write_when_there_is_room(self, offset, data)
        capture = self.capture
        if not self.unlinked:  # else it comes late
            capture.wal_end = max(capture.wal_end, offset + written)
            self._note_time()
        start_write_out(self.fd, offset, written)  # a sync is about to ask for it, nearly always
        return written

    async def fsync(self) -> None:
        self.check_writable()
        os.fdatasync(self.fd)

    async def truncate(self, size: int) -> None:
        if self._cut_by_sqlite(size):
            self._resize(size)
            self.capture.wal_truncated(size)
        else:
            await super().truncate(size)
        self._explains_no_longer()

    async def leave(self, act: Act, leaving: Leaving) -> None:
        await super().leave(act, leaving)
        self._explains_no_longer()

    async def _loses_frames(self, *, by_sqlite: bool) -> bool:
        if self.gatekeeper.capturing:  # nobody here knows how far the WAL goes
            await self.gatekeeper.wal_gate(self.capture)
        return self.gatekeeper.capturing and not by_sqlite

    def _explains_no_longer(self) -> None:
        if self.capture.changed and not self.capture.settle_timer:
            self.gatekeeper.settle_later(self.capture)
