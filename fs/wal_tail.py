"""Follows one `-wal` file: which of its transactions are committed and have not been taken yet.

Owns a descriptor of the backing `-wal` and one of the WAL index in the mount. Never waits, and
writes only what ends a WAL (`seal`, `strike_out`). Always true: with an index, a frame is taken
only when the index covers it; without one, only along an unbroken chain of checksums.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from litemq.errors import FormatError
from litemq.fs.locks import WalWriteLock, wal_index_in_use, wal_writer_active
from litemq.fs.overlay import Overlay
from litemq.fs.page_set import PageSet
from litemq.fs.wal import (
    BLANK_SALTS,
    FRAME_HEADER_BYTES,
    INDEX_HEADER_BYTES,
    WAL_HEADER_BYTES,
    ValidCommit,
    WalHeader,
    WalIndexHeader,
    frame_offset,
    merged,
    parse_index_header,
    parse_wal_header,
    read_commits,
    sealed_index,
    valid_commits,
)
from litemq.fs.wal_frames import WalFrames
from litemq.fs.wal_recovery import recover
from litemq.fs.write_out import write_out
from litemq.txlog.new_start import LARGEST_RECORD_BYTES

#: frames read at once; a larger transaction is read whole, or page by page if it is huge
READ_BYTES = 1024 * 1024
#: more than so much behind what was taken is left to SQLite's own recovery to check
RECOVER_BYTES = 4 * 1024 * 1024
#: Where writes are cached, a writer can be faster than any log of its single transactions: if more
#: than so many wait, they are taken as one. Replicas see fewer states then, and no others.
MERGE_ABOVE = 8

ResumePoint = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class WalCommit:
    """One committed transaction.

    Its pages by number, the size it leaves, and where its frames are in the file. The pages of a
    huge one are read as they are asked for, once; that raises FormatError if the WAL has started
    over meanwhile.
    """

    pages: Iterable[tuple[int, bytes]]
    n_pages: int
    page_size: int
    salts: tuple[int, int]
    offset: int
    size: int


class WalTail:
    """The WAL of one database, generation after generation."""

    def __init__(
        self,
        path: str,
        resume: ResumePoint | None,
        *,
        cached: bool = False,
        close: Callable[[int], object] = os.close,
        beat: Callable[[], object] = lambda: None,
        recovery: Path | None = None,
        backlog_bytes: int = sys.maxsize,
    ) -> None:
        """`resume` is where a former tail stopped.

        Salts, offset and size of the last frames taken. `cached`: the kernel caches writes, so
        frames may be lost without a gate; then the tail is in `doubt`. `close` is for descriptors
        of the mount, whose close may have to wait. `beat` is called now and then in long work.
        `recovery`: a folder that may be made for it, on the file system of the WAL. If more than
        `backlog_bytes` of pages wait, all are taken as one transaction.
        """
        self.path = path
        self._cached = cached
        self._close_fd = close
        self._beat = beat
        self._recovery = recovery
        self._backlog_bytes = backlog_bytes
        #: of a WAL at rest: all that has been taken, gone through once
        self._at_rest: Overlay | None = None
        #: what the last recovery found, and the size of the file then
        self._recovered: tuple[int, WalIndexHeader] | None = None
        self._resume = resume
        self._fd = -1
        self._index_fd = -1
        self._header: WalHeader | None = None
        self._taken = self._resumed_frames = 0
        self._running: tuple[int, int] | None = None
        #: SQLite's recovery has lost frames that had been taken; whoever sees to it resets this
        self.rewound = False
        #: frames taken when the last gate opened: behind them nothing of that time was missed
        self._gated = 0
        #: the WAL has started over, and it can't be told whether all of it had been taken. Nothing
        #: is taken until `skip_published`
        self.doubt = False
        #: pages of frames that were taken, of this generation and of those before: SQLite begins
        #: the next when the database has them all, and whoever sees to that resets the second
        self._pages = PageSet()
        self.left_behind = PageSet()
        #: the last look at it came to an error
        self.failed = False
        self.sealed = False

    def use_file(self, fd: int) -> None:
        """Take over a descriptor of `-wal`, opened in the mount."""
        self._close_file()
        self._fd = fd

    @property
    def resumed(self) -> int:
        """How many frames of this generation an earlier tail has taken."""
        return self._resumed_frames

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def was_read(self) -> bool:
        """Whether everything that was published has been taken, for certain."""
        return self.is_open and not self.doubt and not self.failed

    def gated(self) -> None:
        """A gate is about to open, and everything published has been taken."""
        self._gated = self._taken

    def skip_published(self) -> None:
        """Count everything that is committed as taken, for a comparison that ends the doubt.

        Only meaningful while nobody writes.
        """
        self.doubt = False
        index = self._index()
        if index is None:
            self._enter(None)
            self.doubt = False
            self._count_chain()
        elif self._enter(index.salts):
            self._taken, self._running = index.mx_frame, None
        else:  # about to start over: everything is in the database file
            self._header, self._taken, self._running = None, 0, None
        self.doubt = False
        self._gated = self._taken

    def stop_where_recovery_stops(self) -> None:
        """Count as taken what SQLite's recovery will find in a WAL at rest, be it less."""
        self._taken, self._running = 0, None
        if self._enter(None):
            self._taken, self._running = 0, None
            self._count_chain()

    def open(self) -> bool:
        """Open the file that bears the name now, if it is not open; False if there is none."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._close_file()
            return False
        if self._fd >= 0 and os.path.samestat(os.fstat(fd), os.fstat(self._fd)):
            os.close(fd)
            return True
        self._close_file()
        self._fd = fd
        return True

    def use_index(self, fd: int) -> None:
        """Take over a descriptor of `-shm`, opened through the mount, for writing.

        Only there it is what SQLite maps and locks.
        """
        self.close_index()
        self._index_fd = fd

    def lock_writers(self) -> WalWriteLock | None:
        """Keep the WAL as it is until the lock is released; None if somebody is at it.

        Without an index there is nothing to lock. The lock outlives the tail's own descriptor.
        """
        lock = WalWriteLock(-1 if self._index_fd < 0 else os.dup(self._index_fd))
        if self._index_fd < 0 or lock.take():
            return lock
        lock.release()
        return None

    @property
    def being_written(self) -> bool:
        """Whether someone may have written frames that the index does not show yet."""
        return self._index_fd >= 0 and wal_writer_active(self._index_fd)

    @property
    def restarting(self) -> bool:
        """Whether the index is about a generation that the file has not begun yet."""
        index = self._index()
        header = self._read_header()
        return index is not None and header is not None and index.salts != header.salts

    @property
    def has_index(self) -> bool:
        return self._index_fd >= 0

    @property
    def unshared(self) -> bool:
        """Whether nobody shares an index now, and the chain of checksums tells what is committed.

        Either there is no `-shm`, or it was left behind and is made anew by the next connection
        that shares it: its writer has died, keeps its index to itself (locking_mode=EXCLUSIVE), or
        is no SQLite.
        """
        if self._index_fd < 0:
            return not os.path.exists(f"{self.path[:-4]}-shm")
        return not wal_index_in_use(self._index_fd)

    @property
    def captured_end(self) -> int:
        """Bytes of the current generation that have been taken."""
        return 0 if self._header is None else self._offset(self._taken + 1)

    @property
    def unpublished(self) -> bool:
        """Whether there are bytes behind what has been taken."""
        if self._fd < 0:
            return False
        size = os.fstat(self._fd).st_size
        if self._header is None:
            return size > WAL_HEADER_BYTES
        if size <= self.captured_end:
            return False
        # After a restart of the WAL, frames of the generation before lie behind the new ones.
        salts = os.pread(self._fd, 8, self.captured_end + 8)
        return salts in (self._header.salts, BLANK_SALTS) or self._generation_changed()

    def collect(self, *, chain: bool, blank_up_to: int = 0) -> list[WalCommit]:
        """The next committed transactions, some at a time; [] when there are no more.

        `chain`: go by the checksums, where no index counts. `blank_up_to`: see `valid_commits`.
        Raises OSError, and FormatError if the WAL starts over or is cut while it is read.
        """
        if self._fd < 0 or self.doubt:
            return []
        if chain:
            return self._collect_chain(blank_up_to)
        index = self._index()
        if index is None or not self._enter(index.salts) or self.doubt:
            return []
        return self._collect_published(index)

    def published(self, *, chain: bool) -> tuple[bytes, int] | None:
        """How far commits go at this moment, at most: the generation's salts, a place in the file.

        None if that can't be told. `chain`: as in `collect`. Raises OSError.
        """
        if chain:
            header = self._read_header()
            return None if header is None else (header.salts, os.fstat(self._fd).st_size)
        index = self._index()
        if index is None:
            return None
        return index.salts, frame_offset(index.mx_frame + 1, index.page_size)

    def has_taken(self, published: tuple[bytes, int] | None) -> bool:
        """Whether all that was `published` then has been taken; not what has come since."""
        if published is None or self._header is None:
            return False
        salts, end = published
        return self._header.salts != salts or self.captured_end >= end

    def has_taken_from(self, published: tuple[bytes, int], end: int) -> bool:
        """Whether it is in the generation that was `published` then, and has taken all of that, and
        nothing behind `end` (bytes).
        """
        salts, begin = published
        header = self._header
        return header is not None and header.salts == salts and begin <= self.captured_end <= end

    def skip(self) -> None:
        """Count everything that is committed as taken.

        That is what a former tail has taken; if there was none, what the checksums show.
        """
        resume = self._resume
        if self._enter(None) and not self._goes_on_from(resume) and not self.doubt:
            self._count_chain()

    def overlay(self) -> Overlay | None:
        """What has been taken of the WAL, as pages over the database file; None if that is nothing.

        Nothing also of a WAL that has started over, or was cut: all of it is in the database file.
        Otherwise only meaningful while nobody writes.
        """
        header = self._header
        if header is None or not self._taken or self._generation_changed():
            return None
        overlay = self._at_rest
        if overlay is None or overlay.last != self._taken:
            overlay = Overlay(self._frames, 1, self._taken)
        return None if not overlay.n_pages or self._generation_changed() else overlay

    def position(self) -> ResumePoint | None:
        """What a later tail needs to go on from here; None before the first header was seen."""
        if self._header is None:
            return None
        salts = self._header.salts
        size = self.captured_end - WAL_HEADER_BYTES
        return (*_salt_numbers(salts), WAL_HEADER_BYTES, size)

    def forget_what_recovery_forgets(self) -> bool:
        """Go back to where SQLite's recovery will stop, if that is before what has been taken.

        Recovery ends at the first frame whose header was left blank (see BLANK_SALTS), and frames
        behind it are lost although they had been committed. True if there are such frames.
        """
        if self._header is None:
            return False
        found = None if self._recovered is None else self._recovered[1]
        known = found is not None and found.salts == self._header.salts
        if not self._taken or (found is not None and known and found.mx_frame >= self._taken):
            return False
        survey = self._frames.survey(1, self._taken)
        if not survey.whole:
            self._taken, self._running, self._at_rest = survey.commit, None, None
            return True
        self._at_rest = Overlay(self._frames, 1, self._taken, survey.newest)
        return False

    def seal(self) -> None:
        """Have every connection open the database anew before its next transaction.

        For whoever holds the write lock, and has taken everything. A frame behind that was refused
        its sync, or its writer has died: it must not become a commit when the WAL is recovered.
        """
        self.strike_out()
        index = os.pread(self._index_fd, INDEX_HEADER_BYTES, 0)
        os.pwrite(self._index_fd, sealed_index(index), 0)
        self.sealed = True

    def strike_out(self) -> bool:
        """See to it that no frame behind what has been taken is a commit to SQLite's recovery.

        For whoever knows that nobody writes. False, and nothing done, unless all that was published
        has been taken for certain. Raises OSError.
        """
        if not self.was_read or not self.has_taken(self.published(chain=False)):
            return False
        behind = self.captured_end
        with contextlib.suppress(OSError):  # nobody recovers what a dead mount holds
            if behind and os.pread(self._fd, FRAME_HEADER_BYTES, behind).strip(b"\0"):
                os.pwrite(self._fd, bytes(FRAME_HEADER_BYTES), behind)
                write_out(self._fd)
        return True

    def close_index(self) -> None:
        if self._index_fd >= 0:
            with contextlib.suppress(OSError):  # ENOTCONN when the mount has died
                self._close_fd(self._index_fd)
            self._index_fd = -1

    def close(self) -> None:
        self.close_index()
        self._close_file()

    # --- inside

    @property
    def _frames(self) -> WalFrames:
        assert self._header is not None
        return WalFrames(self._fd, self._header)

    def _close_file(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # as for the index
                self._close_fd(self._fd)
            self._fd = -1
        self._header = None
        self._taken = 0
        self._running = None
        self._recovered = self._at_rest = None
        self._leave_behind()

    def _leave_behind(self) -> None:
        self._pages.move_to(self.left_behind)

    def _index(self) -> WalIndexHeader | None:
        if self._index_fd < 0:
            return None
        return parse_index_header(os.pread(self._index_fd, INDEX_HEADER_BYTES, 0))

    def _read_header(self) -> WalHeader | None:
        if self._fd < 0:
            return None
        try:
            return parse_wal_header(os.pread(self._fd, WAL_HEADER_BYTES, 0))
        except FormatError:
            return None

    def _generation_changed(self) -> bool:
        return self._header is not None and os.pread(self._fd, 8, 16) != self._header.salts

    def _enter(self, salts: bytes | None) -> bool:
        """Be in the generation that the file is in.

        False when that is not the one `salts` names.
        """
        if (
            self._header is None
            or (salts is not None and salts != self._header.salts)
            or (salts is None and self._generation_changed())
        ):
            header = self._read_header()
            if header is None:
                return False
            if self._header is None or header.salts != self._header.salts:
                self._leave_behind()
                self.doubt = self._cached and not self._nothing_missed(header)
                self._header, self._at_rest = header, None
                self._taken = self._resumed_frames = self._resumed(header)
                self._running = None
                self._gated = -1 if self._taken else 0
        return salts is None or salts == self._header.salts

    def _nothing_missed(self, header: WalHeader) -> bool:
        """Whether all of the generation before `header` has been taken.

        SQLite starts over when a checkpoint has copied everything. One that ends with an fsync
        waited at the gate. If the last frames taken were taken there, others can only have come
        since without an fsync: they stand behind, unless the new generation has come so far.
        """
        before = self._header
        if before is None:
            # the first generation of an empty file, or the one in which an earlier tail stopped
            known = self._resume is not None and _salt_numbers(header.salts) == self._resume[:2]
            return known or header.checkpoint_sequence == 0
        restarts = (_salt_numbers(header.salts)[0] - _salt_numbers(before.salts)[0]) & 0xFFFFFFFF
        if self._gated != self._taken or restarts != 1:
            return False
        behind = os.pread(self._fd, 8, self._frame(before, self._taken + 1) + 8)
        if len(behind) < 8:  # it was never longer, or it has been cut
            return os.fstat(self._fd).st_size == self._frame(before, self._taken + 1)
        return behind != before.salts and (behind != header.salts or self.unshared)

    def _resumed(self, header: WalHeader) -> int:
        """How many frames of this generation a former tail has taken."""
        resume, self._resume = self._resume, None
        if resume is None or not self._goes_on_from(resume):
            return 0
        _, _, offset, size = resume
        return (offset + size - WAL_HEADER_BYTES) // (FRAME_HEADER_BYTES + header.page_size)

    def _goes_on_from(self, resume: ResumePoint | None) -> bool:
        """Whether the generation is the one that a former tail has stopped in."""
        header = self._header
        return (
            resume is not None and header is not None and _salt_numbers(header.salts) == resume[:2]
        )

    def _collect_published(self, index: WalIndexHeader) -> list[WalCommit]:
        header = self._header
        assert header is not None
        frames = index.mx_frame - self._taken
        if frames < 0:
            self._taken, self.rewound, self._at_rest = index.mx_frame, True, None
        if frames <= 0:
            return []
        if frames * header.page_size > self._backlog_bytes:
            return [self._huge(index.mx_frame, None)]
        frame_bytes = FRAME_HEADER_BYTES + header.page_size
        first = self._taken + 1
        want = min(frames, max(1, READ_BYTES // frame_bytes))
        while True:
            raw = self._read(self._offset(first), want * frame_bytes)
            try:
                found = read_commits(raw, header.page_size, first_frame=first, salts=header.salts)
            except FormatError:
                if self._generation_changed():
                    return []  # started over since the index was read; the gate saw to it
                found = read_commits(
                    raw, header.page_size, first_frame=first, salts=header.salts, blank=True
                )
            if found or want >= frames:
                break
            end = self._frames.end_of_commit(first, index.mx_frame)
            want = end + 1 - first
            if want * header.page_size > LARGEST_RECORD_BYTES:
                return [self._huge(end, None)]
        if self._cached and len(found) > MERGE_ABOVE:
            found = [merged(found)]
        commits = []
        for commit in found:
            pages = [
                (number, raw[at : at + header.page_size])
                for number, at in commit.pages.items()
                if number <= commit.n_pages
            ]
            commits.append(self._commit(commit.end_frame, pages, commit.n_pages))
            self._taken = commit.end_frame
            self._pages.add(commit.pages)
        self._running = None
        return commits

    def _collect_chain(self, blank_up_to: int) -> list[WalCommit]:
        if not self._enter(None) or self.doubt:
            return []
        assert self._header is not None
        index = None if blank_up_to else self._recover()
        if index is not None:
            return self._collect_published(index)
        commits: list[WalCommit] = []
        taken_bytes = 0
        frames = self._frames
        size = self._header.page_size
        for commit in self._chain(blank_up_to):
            if len(commit.numbers) * size > LARGEST_RECORD_BYTES:
                commits.append(self._huge(commit.end_frame, commit.frame_checksum))
                break
            pages = [
                (number, frames.page(frame))
                for number, frame in commit.newest.items()
                if number <= commit.n_pages
            ]
            commits.append(self._commit(commit.end_frame, pages, commit.n_pages))
            self._taken, self._running = commit.end_frame, commit.frame_checksum
            self._pages.add(commit.newest)
            taken_bytes += size * len(pages)
            if taken_bytes >= READ_BYTES:
                break
        return commits

    def _count_chain(self) -> None:
        """Count as taken what the checksums show, whatever it is."""
        index = self._recover()
        if index is not None:
            self._taken, self._running = index.mx_frame, index.frame_checksum
        if self._header is not None:
            for commit in self._chain(0):
                self._taken, self._running = commit.end_frame, commit.frame_checksum

    def _chain(self, blank_up_to: int) -> Iterator[ValidCommit]:
        """The commits behind what has been taken."""
        assert self._header is not None
        running = self._running
        if running is None and self._taken:
            head = os.pread(self._fd, FRAME_HEADER_BYTES, self._offset(self._taken))
            running = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        return valid_commits(
            self._read,
            self._header,
            first_frame=self._taken + 1,
            running=running,
            blank_up_to=blank_up_to,
        )

    def _recover(self) -> WalIndexHeader | None:
        """What SQLite's recovery makes of the WAL, where that is worth it; it has the frames behind
        what has been taken, or it is None.
        """
        header, size = self._header, os.fstat(self._fd).st_size
        if header is None or self._recovery is None:
            return None
        if self._recovered is None or self._recovered[0] != size:
            if size - self.captured_end <= RECOVER_BYTES:
                return None
            index = recover(self._fd, header.page_size, self._recovery, self._beat)
            if index is None:
                return None
            self._recovered = size, index
        index = self._recovered[1]
        if index.salts != header.salts or index.mx_frame <= self._taken:
            return None
        return index

    def _huge(self, end_frame: int, running: tuple[int, int] | None) -> WalCommit:
        """One that counts as taken when its pages have been read: a failure leaves it to the next
        look. `running`: the checksum of its last frame, where that is gone by.
        """
        overlay = Overlay(self._frames, self._taken + 1, end_frame)
        if not self._taken:
            self._at_rest = overlay
        if not overlay.n_pages or self._generation_changed():
            raise FormatError("the WAL has been cut while it was read")

        def images() -> Iterator[tuple[int, bytes]]:
            yield from overlay.images()
            self._taken, self._running = end_frame, running
            self._pages.add(overlay.numbers)

        return self._commit(end_frame, images(), overlay.n_pages)

    def _commit(
        self, end_frame: int, pages: Iterable[tuple[int, bytes]], n_pages: int
    ) -> WalCommit:
        """From what has been taken up to that frame."""
        assert self._header is not None
        offset = self._offset(self._taken + 1)
        return WalCommit(
            pages,
            n_pages,
            self._header.page_size,
            _salt_numbers(self._header.salts),
            offset,
            self._offset(end_frame + 1) - offset,
        )

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def _offset(self, frame: int) -> int:
        assert self._header is not None
        return self._frame(self._header, frame)

    @staticmethod
    def _frame(header: WalHeader, frame: int) -> int:
        return frame_offset(frame, header.page_size)


def _salt_numbers(salts: bytes) -> tuple[int, int]:
    return int.from_bytes(salts[:4], "big"), int.from_bytes(salts[4:], "big")
