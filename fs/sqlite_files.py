"""The files that SQLite commits by: a database, its rollback journal, its write-ahead log.

Owns what a write, a truncation, an fsync and the loss of the name of such a file mean for capture.
Never speaks FUSE: errors are plain OSErrors. Always true: bytes reach the backing file before the
call that brought them is answered, and a call that could destroy what has not been captured waits
at the gatekeeper first.
"""

from __future__ import annotations

import os
from dataclasses import replace
from errno import ENOSPC, EROFS
from time import monotonic

from litemq.errors import NotADatabaseError
from litemq.fs.capture import ZEROED_JOURNAL_HEADER, Commit, DatabaseCapture, Gatekeeper
from litemq.fs.files import Act, File, Leaving, write_all
from litemq.fs.journal import is_active
from litemq.fs.pages import HEADER_BYTES, MAGIC, parse_header, told_size
from litemq.fs.wal import FRAME_HEADER_BYTES
from litemq.fs.wal_length import written_end
from litemq.fs.write_out import start_write_out

#: of a journal, to tell whether it is active (bytes)
JOURNAL_HEAD_BYTES = 28
#: unit of the kernel's page cache (bytes)
KERNEL_PAGE = os.sysconf("SC_PAGE_SIZE")
#: zeros laid out ahead in a WAL: as many as it is long, within these bounds (bytes)
AHEAD_BYTES = (32 * 1024, 256 * 1024)


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
        if capture.wal_end and self._checkpoint_writes():
            # Once it is done the WAL may start over, so what it copies must be in the log. One that
            # is complete ends with an fsync, and that is where it waits.
            if capture.never_synced and capture.wal_end > capture.captured_end:
                await gatekeeper.wal_gate(capture)
            self._claim(offset, len(data))
            return os.pwrite(self.fd, data, offset)
        # noted before the write: a write that fails half way has changed bytes too
        capture.note_write(offset, len(data))
        if not capture.explained:
            self._unexplained_change()
        return os.pwrite(self.fd, data, offset)

    def _checkpoint_writes(self) -> bool:
        """In WAL mode: whether what writes is a checkpoint, as SQLite's lock shows at its begin."""
        capture = self.capture
        if not capture.checkpoint_open and not capture.overwritten:
            if self.gatekeeper.checkpointing(capture.name):
                capture.checkpoint_open = True
            else:
                capture.overwritten = True
        return not capture.overwritten

    def _claim(self, offset: int, length: int) -> None:
        """The WAL is said to explain these bytes: that is looked at when nobody writes any more."""
        capture = self.capture
        capture.claimed.note(offset, length)
        capture.touched_s = monotonic()
        if not capture.proof_timer:
            self.gatekeeper.prove_later(capture)

    def check_writable(self) -> None:
        # A full disk refuses what begins, at the journal; what has begun must be able to roll back,
        # or nobody could read.
        if self.gatekeeper.refuse_errno != ENOSPC or not self.capture.journal_active:
            super().check_writable()

    async def truncate(self, size: int) -> None:
        self.check_writable()
        capture = self.capture
        if capture.wal_end and size and self.gatekeeper.checkpointing(capture.name):
            if capture.never_synced and capture.uncaptured:
                await self.gatekeeper.wal_gate(capture)
        elif not capture.journal_active and self.gatekeeper.capturing and self._lacks(size):
            await self._rest_is_logged()
            capture.overwritten = capture.wal_end > 0
            capture.everything = True
            self._unexplained_change()
        self._resize(size)

    async def _rest_is_logged(self) -> None:
        """The file is about to be cut: return when the log has what was written to it before."""
        if self.capture.wal_end:
            return  # whatever is cut off, the WAL has the frames
        if self.gatekeeper.rollback_writer(self.capture.name):
            return  # SQLite undoes a transaction, or ends one: its sync tells
        await _hand_over_the_rest(self.path, self.capture, self.gatekeeper)
        if self.gatekeeper.read_only or self.gatekeeper.fenced:  # the role has changed meanwhile
            raise OSError(EROFS, os.strerror(EROFS))

    def _lacks(self, size: int) -> bool:
        """Whether a file of this length may have other pages (bytes).

        SQLite cuts off what is behind the end of a database after the journal's end.
        """
        if self.capture.wal_end:
            return True
        try:
            with open(self.path, "rb") as file:
                header = parse_header(file.read(HEADER_BYTES))
                end = told_size(header) * header.page_size
                return header.wal or not 0 < end <= min(size, os.fstat(file.fileno()).st_size)
        except (FileNotFoundError, NotADatabaseError):
            return True

    def _unexplained_change(self) -> None:
        self.capture.touched_s = monotonic()
        if not self.capture.settle_timer:
            self.gatekeeper.settle_later(self.capture)

    async def fsync(self, opener: int | None = None) -> None:
        """`opener`: the thread that has opened the file which is synced."""
        os.fdatasync(self.fd)
        capture = self.capture
        if capture.wal_end and self.gatekeeper.capturing:
            if capture.wal_end > capture.captured_end:
                await self.gatekeeper.wal_gate(capture)
            capture.checkpoint_open = False
        await self._end_without_journal(opener)
        self.report_unexplained()

    async def _end_without_journal(self, opener: int | None) -> None:
        """With its journal in memory, or none, SQLite commits by a sync under its lock.

        Any other program may sync in the middle of that transaction.
        """
        capture, gatekeeper = self.capture, self.gatekeeper
        if not capture.changed or self.explained or not gatekeeper.capturing:
            return
        if gatekeeper.rollback_writer(capture.name, opener):
            await _hand_over_the_rest(self.path, capture, gatekeeper, wait=False)
            self._refuse_if_fenced()

    def written_to_the_end(self) -> None:
        self.report_unexplained()

    @property
    def explained(self) -> bool:
        """Whether a journal or a WAL accounts for what was written."""
        return self.capture.explained

    def report_unexplained(self) -> None:
        """Hand over what changed without a journal or WAL to account for it."""
        if self.capture.changed and not self.explained:
            self._report()

    def _report(self) -> None:
        capture = self.capture
        try:
            commit = _take_from(self.path, capture, unexplained=True)
        except FileNotFoundError:
            return
        if commit is None and not capture.foreign:
            capture.foreign = capture.everything = True
            if self._is_nobodys_database():
                return
            # what it was before may be in the log
            commit = Commit(page_size=0, pages=0, numbers=[], everything=True, data=None)
        if commit is not None:
            self.gatekeeper.unexplained(capture, commit)

    def _is_nobodys_database(self) -> bool:
        """Folders hold files of all kinds: those that never were databases are not spoken of."""
        in_a_folder = os.path.basename(self.name) != self.name
        known = in_a_folder and self.gatekeeper.position_text(self.name) is not None
        return in_a_folder and not known and self.head() != MAGIC

    async def leave(self, act: Act, leaving: Leaving) -> None:
        self._refuse_if_fenced()
        capture = self.capture
        if capture.uncaptured:
            await self.gatekeeper.wal_gate(capture)
        await act()
        capture.file_gone()
        if not leaving.replaced:
            self.gatekeeper.database_removed(capture.name)

    def moved_away(self) -> None:
        self.capture.file_gone()
        self.gatekeeper.database_removed(self.capture.name)

    def appeared(self) -> None:
        """Renamed into place: nothing is known of its pages."""
        self.capture.everything = True
        self._report()


def _beside(path: str, database: str) -> str:
    """Where the database is whose journal or WAL is at `path`."""
    return os.path.join(os.path.dirname(path), os.path.basename(database))


def _take_from(path: str, capture: DatabaseCapture, *, unexplained: bool = False) -> Commit | None:
    """The pages of the file at `path` that changed; None if it is no database. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return capture.take(fd, unexplained=unexplained)
    finally:
        os.close(fd)


async def _hand_over_the_rest(
    path: str, capture: DatabaseCapture, gatekeeper: Gatekeeper, *, wait: bool = True
) -> None:
    """Hand over what was written without a journal or a WAL.

    `wait`: return when it is in the log, for what comes next would destroy it, or stand before it.
    """
    if not gatekeeper.capturing:
        return
    if gatekeeper.unexplained_pending(capture.name):
        capture.everything = True
    try:
        commit = _take_from(path, capture)
    except FileNotFoundError:
        return
    if commit is not None:
        # no data: then the caller waits until it is in the log
        await gatekeeper.hand_over(capture, replace(commit, data=None) if wait else commit)


class JournalFile(File):
    """A rollback journal: its end is the end of a transaction, committed or rolled back."""

    __slots__ = ("capture", "database_path")

    def __init__(
        self, inode: int, name: str, path: str, capture: DatabaseCapture, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.capture = capture
        self.database_path = _beside(path, capture.name)

    async def write(self, offset: int, data: bytes) -> int:
        if offset == 0 and data == ZEROED_JOURNAL_HEADER:
            self._check_may_end()

            async def blank() -> None:
                write_all(self.fd, data, 0)

            await self._end_by(self._take(), blank)
            return len(data)
        self.check_writable()
        if offset == 0:
            self.look_at_head(data)
        self.capture.journal_active = True
        return os.pwrite(self.fd, data, offset)

    async def truncate(self, size: int) -> None:
        if size:
            self.check_writable()
            self._resize(size)
            return
        self._check_may_end()

        async def cut() -> None:
            self._resize(0)

        await self._end_by(self._take(), cut)

    async def leave(self, act: Act, leaving: Leaving) -> None:  # noqa: ARG002 - as File's
        self._check_may_end()
        await self._end_by(self._take(), act)

    def remove(self) -> None:
        self.gatekeeper.remove(self.path)

    def moved_away(self) -> None:
        self.capture.journal_active = False

    def appeared(self) -> None:
        """What was under way may be undone by whoever reads the database next: page by page."""
        super().appeared()
        with open(self.path, "rb") as journal:
            active = is_active(journal.read(JOURNAL_HEAD_BYTES))
        self.capture.journal_active = active
        self.capture.everything = self.capture.everything or active

    async def _end_by(self, commit: Commit | None, act: Act) -> None:
        """A transaction ends by this act, or goes on if that fails."""
        try:
            await act()
        except OSError:
            self.capture.everything = self.capture.everything or commit is not None
            raise
        late = commit is not None and self.gatekeeper.fenced
        await self._ended(commit)
        if late:  # this process or its disk stood still meanwhile
            self._refuse_if_fenced()

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
        if self.capture.wal_end:
            # Its program opened the database before there was a WAL, whose pages are to be laid
            # over those of the file: that is a comparison.
            self.capture.overwritten = True
            return None
        if self.gatekeeper.unexplained_pending(self.capture.name):
            self.capture.everything = True  # or the earlier changes would come later in the log
        try:
            return _take_from(self.database_path, self.capture)
        except FileNotFoundError:
            return None

    async def _ended(self, commit: Commit | None) -> None:
        self.capture.journal_active = False
        if commit is not None:
            await self.gatekeeper.hand_over(self.capture, commit)
            return
        # in WAL mode; or it is no database in the clear any more, or not yet
        left = self.capture.changed and not self.capture.foreign
        if left and self.gatekeeper.capturing and not self.capture.settle_timer:
            self.gatekeeper.settle_later(self.capture)


class WalFile(File):
    """A write-ahead log. Frames are captured by the log writer.

    Here they are only kept from being lost, and the file is kept longer than what was written: its
    frames start and end within pages of the kernel, and it splits a write at each page that it
    does not know yet. So zeros are laid out ahead of the writer, on the disk and in the page cache.
    Programs are told the length that was written.
    """

    __slots__ = ("_written_end", "capture", "fsync_expected", "laid_out")

    def __init__(
        self, inode: int, name: str, path: str, capture: DatabaseCapture, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.capture = capture
        #: up to where a write makes the file no longer (bytes)
        self.laid_out = 0
        #: where what was written ends, if zeros are laid out behind it (bytes)
        self._written_end = 0
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
            self.look_at_head(data)
            if capture.wal_end:
                await self._starts_over()
            else:
                # WAL mode begins: the database file changes by checkpoints from here on
                database = _beside(self.path, capture.name)
                await _hand_over_the_rest(database, capture, self.gatekeeper)
        written = os.pwrite(self.fd, data, offset)
        late = self.gatekeeper.fenced  # this process or its disk stood still meanwhile
        if self.unlinked:  # it has lost its name while this call waited
            return written
        self._note_time()
        if capture.wal_written(offset, written):
            self.gatekeeper.wal_rewritten(capture.name)
        if offset + written > self._written_end:
            self._written_end = offset + written
        if offset + written > self.laid_out:
            await self._lay_out(offset + written)
        if self.fsync_expected and written > FRAME_HEADER_BYTES:
            self.fsync_expected = False
            start_write_out(self.fd, offset, written)
        if late:
            self._refuse_if_fenced()
        return written

    async def fsync(self) -> None:
        await super().fsync()
        # SQLite publishes a synced commit now; one that is not synced it publishes without asking
        if self.gatekeeper.fenced and self.capture.uncaptured:
            raise OSError(EROFS, os.strerror(EROFS))
        self.fsync_expected = True

    def _note_time(self) -> None:
        """Frames that no index publishes are looked for when nobody writes any more."""
        self.capture.touched_s = monotonic()
        if not self.capture.proof_timer:
            self.gatekeeper.prove_later(self.capture)

    @property
    def written_bytes(self) -> int | None:
        """The length without the zeros that are laid out ahead; None if there are none."""
        return self._written_end if self.laid_out > self._written_end else None

    def take_over(self, other: File) -> None:
        super().take_over(other)
        if isinstance(other, WalFile):
            self.laid_out, self._written_end = other.laid_out, other._written_end

    def cut_off_zeros(self) -> None:
        """Give a WAL of a former mount the length that was written. Raises OSError."""
        with open(self.path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            end = written_end(lambda offset, n: os.pread(file.fileno(), n, offset), size)
            if end < size:
                file.truncate(end)

    async def _lay_out(self, end: int) -> None:
        """Zeros behind a write that made the file longer.

        While that write is in flight nobody else writes to the file, and the pages behind its end
        are nobody's.
        """
        size = os.fstat(self.fd).st_size
        self.laid_out = self._written_end = size
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
            self.laid_out = size
            return
        await self.gatekeeper.store_in_page_cache(self.inode, start, zeros)

    async def truncate(self, size: int) -> None:
        capture = self.capture
        by_hand = await self._loses_frames(by_sqlite=self._cut_by_sqlite(size))
        self._resize(size)
        self.laid_out = self._written_end = 0
        capture.wal_truncated(size)
        if by_hand:
            self.gatekeeper.changed_by_hand(capture.name, "the end of its WAL")

    def _cut_by_sqlite(self, size: int) -> bool:
        """Whether nothing is lost by this length, or SQLite itself sets it."""
        return size >= self.capture.wal_end or self.gatekeeper.wal_locked(self.capture.name)

    async def _loses_frames(self, *, by_sqlite: bool) -> bool:
        """Have what was committed captured; true if the database may not have all of it."""
        capture, gatekeeper = self.capture, self.gatekeeper
        if by_sqlite:
            await self._starts_over()
        elif gatekeeper.capturing and capture.uncaptured:
            await gatekeeper.wal_gate(capture)
        return gatekeeper.capturing and not by_sqlite

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

    async def leave(self, act: Act, leaving: Leaving) -> None:
        capture = self.capture
        by_hand = await self._loses_frames(by_sqlite=leaving.by_sqlite or not capture.wal_end)
        await act()
        capture.wal_truncated(0)
        self.gatekeeper.wal_removed(capture.name)
        if by_hand:
            self.gatekeeper.changed_by_hand(capture.name, "its WAL")

    def remove(self) -> None:
        self.gatekeeper.remove(self.path)

    def moved_away(self) -> None:
        self.capture.wal_truncated(0)
        self.gatekeeper.wal_removed(self.capture.name)

    def appeared(self) -> None:
        super().appeared()
        self.capture.wal_truncated(0)
        self.capture.wal_end = os.stat(self.path).st_size
        self.gatekeeper.wal_opened(self.capture.name)
