"""The files of the mount, one class per role SQLite gives them, each on its backing file.

Owns what a write, a truncation, an fsync and an unlink of such a file mean for capture. Never
speaks FUSE: errors are plain OSErrors. Always true: bytes reach the backing file before the call
that brought them is answered, and a call that could destroy what has not been captured waits at the
gatekeeper first.
"""

from __future__ import annotations

import os
from dataclasses import replace
from errno import ENOSPC, EROFS
from time import monotonic

from litemq.fs.capture import ZEROED_JOURNAL_HEADER, Commit, DatabaseCapture, Gatekeeper
from litemq.fs.wal import FRAME_HEADER_BYTES
from litemq.fs.write_out import start_write_out

#: unit of the kernel's page cache (bytes)
KERNEL_PAGE = os.sysconf("SC_PAGE_SIZE")
#: zeros laid out ahead in a WAL: as many as it is long, within these bounds (bytes)
AHEAD_BYTES = (32 * 1024, 256 * 1024)


def write_all(fd: int, data: bytes, offset: int) -> int:
    """As pwrite, but never short: the kernel does not look at how much of a cached page arrived."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)
    return written


class File:
    """Any file that is not SQLite's: passed through, never replicated."""

    __slots__ = (
        "fd",
        "gatekeeper",
        "handles",
        "inode",
        "lookups",
        "name",
        "path",
        "unlinked",
        "writers",
    )

    #: whether a replica refuses to let applications open it for writing
    guarded = True

    def __init__(self, inode: int, name: str, path: str, gatekeeper: Gatekeeper) -> None:
        self.inode = inode
        self.name = name
        self.path = path
        self.gatekeeper = gatekeeper
        self.fd = -1
        self.handles = 0
        self.writers = 0
        self.lookups = 0
        self.unlinked = False

    def open(self, *, writing: bool) -> None:
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self.handles += 1
        self.writers += writing
        if writing and self.writers == 1:
            self.opened_for_writing()

    def create(self, mode: int) -> None:
        """Make the backing file and open it."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        os.fchmod(self.fd, mode)
        self.handles += 1
        self.writers += 1
        self.opened_for_writing()

    def release(self, *, writing: bool) -> None:
        self.handles -= 1
        if writing:
            self.writers -= 1
            if self.writers == 0:
                self.written_to_the_end()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def stat(self) -> os.stat_result:
        return os.stat(self.path) if self.fd < 0 else os.fstat(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def check_writable(self) -> None:
        errno = self.gatekeeper.refuse_errno
        if errno:
            raise OSError(errno, os.strerror(errno))

    async def write(self, offset: int, data: bytes) -> int:
        self.check_writable()
        return write_all(self.fd, data, offset)

    async def truncate(self, size: int) -> None:
        self.check_writable()
        self._resize(size)

    def _resize(self, size: int) -> None:
        if self.fd >= 0:
            os.ftruncate(self.fd, size)
        else:
            os.truncate(self.path, size)

    async def fsync(self) -> None:
        os.fdatasync(self.fd)

    def opened_for_writing(self) -> None:
        """Somebody may write from now on, and nobody could before."""

    def written_to_the_end(self) -> None:
        """The last handle that could write is gone."""

    async def unlink(self) -> None:
        # a super-journal's end is that of a transaction over several databases
        if self.gatekeeper.fenced:
            raise OSError(EROFS, os.strerror(EROFS))
        os.unlink(self.path)

    def appeared(self) -> None:
        """The file was created, or another was renamed to its name."""


class DatabaseFile(File):
    """A database.

    Its pages change under a journal, by a checkpoint, or for reasons of their own.
    """

    __slots__ = ("capture",)

    def __init__(
        self, inode: int, name: str, path: str, capture: DatabaseCapture, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.capture = capture

    async def write(self, offset: int, data: bytes) -> int:
        capture = self.capture
        gatekeeper = self.gatekeeper
        if gatekeeper.refuse_errno:
            self.check_writable()
        if not gatekeeper.capturing:
            return os.pwrite(self.fd, data, offset)
        if capture.wal_end:
            # A checkpoint: once it is done the WAL may start over, so what it copies must be in the
            # log. One that is complete ends with an fsync, and that is where it waits.
            if capture.never_synced and capture.wal_end > capture.captured_end:
                await gatekeeper.wal_gate(capture)
            capture.checkpoint_open = True
            return os.pwrite(self.fd, data, offset)
        # noted before the write: a write that fails half way has changed bytes too
        capture.note_write(offset, len(data))
        if not capture.journal_active:
            self._unexplained_change()
        return os.pwrite(self.fd, data, offset)

    def check_writable(self) -> None:
        # A full disk refuses what begins, at the journal; what has begun must be able to roll back,
        # or nobody could read.
        if self.gatekeeper.refuse_errno != ENOSPC or not self.capture.journal_active:
            super().check_writable()

    async def truncate(self, size: int) -> None:
        self.check_writable()
        capture = self.capture
        if capture.wal_end and size:
            if capture.never_synced and capture.uncaptured:
                await self.gatekeeper.wal_gate(capture)
        elif not capture.journal_active and self.gatekeeper.capturing:
            capture.everything = True
            self._unexplained_change()
        self._resize(size)

    def _unexplained_change(self) -> None:
        self.capture.touched_s = monotonic()
        if not self.capture.settle_timer:
            self.gatekeeper.settle_later(self.capture)

    async def fsync(self) -> None:
        os.fdatasync(self.fd)
        capture = self.capture
        if capture.wal_end and self.gatekeeper.capturing:
            if capture.wal_end > capture.captured_end:
                await self.gatekeeper.wal_gate(capture)
            capture.checkpoint_open = False
        self.report_unexplained()

    def written_to_the_end(self) -> None:
        self.report_unexplained()

    @property
    def explained(self) -> bool:
        """Whether a journal or a WAL accounts for what was written."""
        return self.capture.explained

    def report_unexplained(self) -> None:
        """Hand over what changed without a journal or WAL to account for it."""
        capture = self.capture
        if self.explained or not capture.changed or self.fd < 0:
            return
        commit = capture.take(self.fd, unexplained=True)
        if commit is None and not capture.foreign:
            # what it was before may be in the log
            capture.foreign = capture.everything = True
            commit = Commit(page_size=0, pages=0, numbers=[], everything=True, data=None)
        if commit is not None:
            self.gatekeeper.unexplained(capture, commit)

    async def unlink(self) -> None:
        if self.gatekeeper.fenced:
            raise OSError(EROFS, os.strerror(EROFS))
        if self.capture.uncaptured:
            await self.gatekeeper.wal_gate(self.capture)
        os.unlink(self.path)
        self.capture.forget()
        self.gatekeeper.database_removed(self.name)

    def appeared(self) -> None:
        """Renamed into place: nothing is known of its pages."""
        self.capture.everything = True
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            commit = self.capture.take(fd)
        finally:
            os.close(fd)
        if commit is not None:
            self.gatekeeper.unexplained(self.capture, commit)


def _take_from(path: str, capture: DatabaseCapture) -> Commit | None:
    """The pages of the database file at `path` that changed; None if there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return capture.take(fd)
    finally:
        os.close(fd)


class JournalFile(File):
    """A rollback journal: its end is the end of a transaction, committed or rolled back."""

    __slots__ = ("capture", "database_path")

    def __init__(
        self, inode: int, name: str, path: str, capture: DatabaseCapture, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.capture = capture
        self.database_path = os.path.join(os.path.dirname(path), capture.name)

    async def write(self, offset: int, data: bytes) -> int:
        if offset == 0 and data == ZEROED_JOURNAL_HEADER:
            self._check_may_end()
            commit = self._take()
            written = os.pwrite(self.fd, data, 0)
            await self._ended(commit)
            return written
        self.check_writable()
        self.capture.journal_active = True
        return os.pwrite(self.fd, data, offset)

    async def truncate(self, size: int) -> None:
        if size:
            self.check_writable()
            self._resize(size)
            return
        self._check_may_end()
        commit = self._take()
        self._resize(0)
        await self._ended(commit)

    async def unlink(self) -> None:
        self._check_may_end()
        commit = self._take()
        self.gatekeeper.remove(self.path)
        await self._ended(commit)

    def _check_may_end(self) -> None:
        # Its pages may have been written while the lease lasted, but this is what commits them. The
        # journal stays, and is rolled back by whoever may write next.
        if self.gatekeeper.fenced and self.capture.changed:
            raise OSError(EROFS, os.strerror(EROFS))

    def _take(self) -> Commit | None:
        # Read before the journal ends, handed over after: should this process die in between, the
        # journal or the scan of the next start tells what happened.
        if not self.capture.changed or not self.gatekeeper.capturing:
            return None
        if self.gatekeeper.unexplained_pending(self.capture.name):
            self.capture.everything = True  # or the earlier changes would come later in the log
        return _take_from(self.database_path, self.capture)

    async def _ended(self, commit: Commit | None) -> None:
        self.capture.journal_active = False
        if commit is not None:
            await self.gatekeeper.hand_over(self.capture, commit)
        elif self.capture.changed and self.gatekeeper.capturing and not self.capture.foreign:
            # it is no database in the clear any more, or not yet: nobody may close it for long
            self.gatekeeper.settle_later(self.capture)


class WalFile(File):
    """A write-ahead log. Frames are captured by the log writer.

    Here they are only kept from being lost, and the file is kept longer than what was written: its
    frames start and end within pages of the kernel, and it splits a write at each page that it
    does not know yet. So zeros are laid out ahead of the writer, on the disk and in the page cache.
    """

    __slots__ = ("capture", "fsync_expected", "laid_out")

    def __init__(
        self, inode: int, name: str, path: str, capture: DatabaseCapture, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.capture = capture
        #: up to where a write makes the file no longer (bytes)
        self.laid_out = 0
        #: the last commit ended with an fsync, so the disk may begin with the next one's page early
        self.fsync_expected = False

    def create(self, mode: int) -> None:
        super().create(mode)
        self.capture.wal_truncated(0)
        self.gatekeeper.wal_opened(self.capture.name)

    async def write(self, offset: int, data: bytes) -> int:
        if self.gatekeeper.refuse_errno:
            self.check_writable()
        capture = self.capture
        if offset == 0:
            if capture.wal_end:
                await self._starts_over()
            else:
                await self._hand_over_the_rest()
        written = os.pwrite(self.fd, data, offset)
        if capture.wal_written(offset, written):
            self.gatekeeper.wal_rewritten(capture.name)
        if offset + written > self.laid_out:
            await self._lay_out(offset + written)
        if self.fsync_expected and written > FRAME_HEADER_BYTES:
            self.fsync_expected = False
            start_write_out(self.fd, offset, written)
        return written

    async def fsync(self) -> None:
        await super().fsync()
        # SQLite publishes a synced commit now; one that is not synced it publishes without asking
        if self.gatekeeper.fenced and self.capture.uncaptured:
            raise OSError(EROFS, os.strerror(EROFS))
        self.fsync_expected = True

    async def _lay_out(self, end: int) -> None:
        """Zeros behind a write that made the file longer.

        While that write is in flight nobody else writes to the file, and the pages behind its end
        are nobody's.
        """
        size = os.fstat(self.fd).st_size
        self.laid_out = size
        if end != size:
            return
        start = -(-size // KERNEL_PAGE) * KERNEL_PAGE
        zeros = bytes(min(max(start, AHEAD_BYTES[0]), AHEAD_BYTES[1]))
        self.laid_out = start + len(zeros)
        try:
            there_is_room = os.pwrite(self.fd, zeros, start) == len(zeros)
        except OSError:
            there_is_room = False
        if not there_is_room:  # the file grows as its writer writes
            os.ftruncate(self.fd, size)
            return
        await self.gatekeeper.store_in_page_cache(self.inode, start, zeros)

    async def _hand_over_the_rest(self) -> None:
        """WAL mode begins: what was written before it must stand before it in the log.

        The database file is at rest, for it changes by checkpoints from here on.
        """
        capture, gatekeeper = self.capture, self.gatekeeper
        if not gatekeeper.capturing:
            return
        if gatekeeper.unexplained_pending(capture.name):
            capture.everything = True
        commit = _take_from(os.path.join(os.path.dirname(self.path), capture.name), capture)
        if commit is not None:
            # no data: then the caller waits until it is in the log
            await gatekeeper.hand_over(capture, replace(commit, data=None))

    async def truncate(self, size: int) -> None:
        capture = self.capture
        if size < capture.wal_end:
            await self._starts_over()
        self._resize(size)
        self.laid_out = 0
        capture.wal_truncated(size)

    async def _starts_over(self) -> None:
        """Frames are about to be lost. All that were committed have been copied by a checkpoint.

        If that ended with an fsync, they are in the log, and what is behind them was never
        committed. Otherwise wait here, and from now on at every write of a checkpoint.
        """
        capture = self.capture
        if capture.checkpoint_open and self.gatekeeper.capturing:
            capture.never_synced = True
            capture.checkpoint_open = False
            if capture.uncaptured:
                await self.gatekeeper.wal_gate(capture)
                self.gatekeeper.wal_rewritten(capture.name)

    async def unlink(self) -> None:
        await self._starts_over()
        self.gatekeeper.remove(self.path)
        self.capture.wal_truncated(0)
        self.gatekeeper.wal_removed(self.capture.name)

    def appeared(self) -> None:
        self.capture.wal_truncated(0)
        self.capture.wal_end = os.stat(self.path).st_size
        self.gatekeeper.wal_opened(self.capture.name)


class ShmFile(File):
    """The WAL index. Processes map it.

    The kernel writes it back now and then, also on a replica.
    """

    __slots__ = ("database",)

    guarded = False

    def __init__(
        self, inode: int, name: str, path: str, database: str, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.database = database

    def check_writable(self) -> None:
        """Shared memory is no part of a transaction: it is always written."""

    async def write(self, offset: int, data: bytes) -> int:
        return os.pwrite(self.fd, data, offset)

    def create(self, mode: int) -> None:
        super().create(mode)
        self.gatekeeper.shm_opened(self.database)

    async def unlink(self) -> None:
        os.unlink(self.path)
        self.gatekeeper.shm_removed(self.database)

    async def fsync(self) -> None:
        """Nobody needs it on disk: it is rebuilt after a crash."""


class Revoked:
    """What an open file is to those who had it for writing when the node ceased to be primary."""

    __slots__ = ("file",)

    guarded = True

    def __init__(self, file: File) -> None:
        self.file = file

    @property
    def fd(self) -> int:
        return self.file.fd

    async def write(self, offset: int, data: bytes) -> int:  # noqa: ARG002 - as File's
        raise OSError(EROFS, os.strerror(EROFS))

    async def fsync(self) -> None:
        await self.file.fsync()
