"""What the FUSE side knows of one database: which bytes changed since the last commit, and how far
its WAL goes.

It decides when a transaction has ended and which pages it wrote; it performs no waits and answers
no FUSE call. Always true: a byte of the database file that changed is in `dirty`, or explained by
WAL frames, or has been handed over.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Protocol

from litemq.errors import NotADatabaseError
from litemq.fs.pages import database_size, read_header
from litemq.fs.poll_loop import Event

#: Commits up to this size travel in a message, larger ones are read from the file while the caller
#: waits (bytes).
HANDOVER_BYTES = 256 * 1024
#: where so many places are known to have changed, all pages are compared instead
MOST_PLACES = 1 << 18
#: and where it is so many pages, since their numbers travel in a message
MOST_NUMBERS = 1 << 20
#: SQLite's own limit
MAX_PAGE = 0xFFFFFFFE
#: PERSIST mode ends a transaction by writing this over the journal's header.
ZEROED_JOURNAL_HEADER = bytes(28)


@dataclass(frozen=True, slots=True)
class Commit:
    """The pages of one ended transaction. `data` is None when they are to be read from the file."""

    page_size: int
    pages: int
    numbers: list[int]
    everything: bool
    data: bytes | None


class DatabaseCapture:
    """The changes of one database name, across the lives of the files that bear it."""

    __slots__ = (
        "captured_end",
        "checkpoint_open",
        "dirty",
        "everything",
        "foreign",
        "gates",
        "generation",
        "journal_active",
        "name",
        "never_synced",
        "page_size",
        "rewritten",
        "run",
        "settle_timer",
        "synced",
        "touched_s",
        "wal_end",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = 0
        self.begin()

    def begin(self) -> None:
        """Nothing is known to have changed."""
        self.dirty: dict[int, int] = {}
        #: places written while gates are held, and how many are
        self.rewritten: set[int] = set()
        self.gates = 0
        #: the entry of `dirty` that was the last to change, and where its bytes end
        self.run = (0, -1)
        #: the pages that changed are not known: compare all of them
        self.everything = False
        #: the file was no database when it was last looked at, and that has been reported
        self.foreign = False
        self.journal_active = False
        #: (writes are cached) the database was synced while this journal was active: all is here
        self.synced = False
        #: bytes written to the current generation of the WAL, and how many of them are in the log
        self.wal_end = 0
        self.captured_end = 0
        self.generation += 1
        #: the database file was written by a checkpoint, and no fsync has ended it
        self.checkpoint_open = False
        #: checkpoints here end without an fsync (synchronous=OFF): hold their writes instead
        self.never_synced = False
        #: of the database when it was last looked at: page numbers mean nothing in another (bytes)
        self.page_size = 0
        #: when the database file was last written without explanation (monotonic seconds)
        self.touched_s = 0.0
        self.settle_timer = False

    @property
    def uncaptured(self) -> bool:
        """Whether the WAL may hold frames that are not in the log."""
        return self.wal_end > self.captured_end

    @property
    def explained(self) -> bool:
        """Whether a journal or a WAL accounts for writes to the database file."""
        return self.journal_active or self.wal_end > 0

    @property
    def changed(self) -> bool:
        return self.everything or bool(self.dirty)

    def note_write(self, offset: int, length: int) -> None:
        """Bytes of the database file were written outside a checkpoint."""
        if self.gates:
            self.rewritten.add(offset)
        start, end = self.run
        if offset == end and start in self.dirty:  # SQLite writes in the order of the file
            offset, length = start, end - start + length
        if self.dirty.get(offset, 0) < length:
            self.dirty[offset] = length
            self.run = (offset, offset + length)
            if len(self.dirty) > MOST_PLACES:
                self.forget()
                self.everything = True

    async def forget_behind(self, gate: Coroutine[None, None, bool]) -> None:
        """Wait at the gate; if all that was written before is in the log then, it is not dirty.

        It stays `dirty` meanwhile: a comparison under way is to have it. So does what is written
        meanwhile, also in the same place.
        """
        before = dict(self.dirty)
        self.gates += 1
        try:
            proven = await gate
            for offset, length in before.items() if proven else ():
                if self.dirty.get(offset) == length and offset not in self.rewritten:
                    del self.dirty[offset]
        finally:
            self.gates -= 1
            if not self.gates:
                self.rewritten.clear()

    def wal_written(self, offset: int, length: int) -> bool:
        """Bytes of the WAL were written; true if that overwrote frames that had been captured."""
        if offset == 0:
            self.wal_end = length
            self.captured_end = 0
            self.generation += 1
            return False
        end = offset + length
        rewritten = 32 <= offset < self.captured_end
        if rewritten:
            self.captured_end = offset
        if end > self.wal_end:
            self.wal_end = end
        return rewritten

    def wal_truncated(self, size: int) -> None:
        if size < self.wal_end:
            self.wal_end = size
        if size == 0:
            self.captured_end = 0
            self.generation += 1

    def forget(self) -> None:
        """The database file is gone: nothing of it is left to capture."""
        self.dirty.clear()
        self.everything = False

    def take(self, fd: int, *, unexplained: bool = False) -> Commit | None:
        """The pages that changed, read from the file now; None if nothing did or it is no database.

        `unexplained`: perhaps in the middle of a transaction. The header may be older than pages
        behind the end that it tells, and what was reported before may have counted in pages of
        another size. Raises OSError. What was taken counts as handed over.
        """
        if not self.changed:
            return None
        try:
            header = read_header(lambda n: os.pread(fd, n, 0))
        except NotADatabaseError:
            return None
        size = header.page_size
        if unexplained and self.page_size not in (0, size):
            self.everything = True
        self.page_size = size
        pages = database_size(header, os.fstat(fd).st_size)
        last = MAX_PAGE if unexplained else pages
        if sum(self.dirty.values()) > MOST_NUMBERS * size:
            self.everything = True
        everything = self.everything
        numbers = [] if everything else self._page_numbers(size, last)
        data: bytes | None = None
        if not everything and len(numbers) * size <= HANDOVER_BYTES:
            images = [os.pread(fd, size, (number - 1) * size) for number in numbers]
            if all(len(image) == size for image in images):
                data = b"".join(images)
        self.forget()
        self.foreign = False
        return Commit(size, pages, numbers, everything, data)

    def _page_numbers(self, page_size: int, pages: int) -> list[int]:
        numbers: set[int] = set()
        for offset, length in self.dirty.items():
            first = offset // page_size
            last = (offset + length - 1) // page_size
            if first == last:
                numbers.add(first + 1)
            else:
                numbers.update(range(first + 1, last + 2))
        return sorted(number for number in numbers if number <= pages)


class Gatekeeper(Protocol):
    """What the file system asks of the actor around it.

    Verdicts, hand-overs, and what the virtual files show.
    """

    @property
    def refuse_errno(self) -> int:
        """Errno for every write that starts or extends a transaction; 0: go ahead."""

    @property
    def fenced(self) -> bool:
        """Whether this primary's lease may have ended: no transaction may end by a commit."""

    @property
    def holding(self) -> Event[None] | None:
        """Set while writers are to wait; they go on when it happens."""

    @property
    def unverified(self) -> bool:
        """Whether the files may be of several earlier states: nobody is to read them yet."""

    @property
    def cached_writes_s(self) -> float:
        """How long the kernel may take writes to a WAL into its cache without asking (seconds)."""

    def is_actor(self, pid: int) -> bool:
        """Whether this thread belongs to an actor of this node."""

    def same_process(self, pid: int, other: int) -> bool:
        """Whether two threads belong to one process."""

    def serves(self, pid: int) -> bool:
        """Whether this thread belongs to an actor that has files open to look at them."""

    @property
    def read_only(self) -> bool:
        """Whether only the admitted process may write (a replica)."""

    @property
    def capturing(self) -> bool:
        """Whether changes are captured at all (not on a replica)."""

    def admitted(self, pid: int) -> bool:
        """Whether this thread belongs to the process that may write on a replica."""

    async def wal_gate(self, capture: DatabaseCapture) -> bool:
        """Return once everything published in the WAL is in the log.

        False if frames may have been lost unseen before: a comparison follows. Raises OSError to
        fail the call.
        """

    async def hand_over(self, capture: DatabaseCapture, commit: Commit) -> None:
        """Give an ended transaction to the log writer; returns at once unless it is large."""

    async def commits_logged(self, database: str) -> None:
        """Return when all commits that were handed over are known to be in the log.

        Raises OSError when that may take long.
        """

    def unexplained_pending(self, database: str) -> bool:
        """Whether such a report is not in the log yet."""

    def unexplained(self, capture: DatabaseCapture, commit: Commit) -> None:
        """Bytes changed without journal or WAL."""

    def wal_opened(self, database: str) -> None: ...
    def wal_removed(self, database: str) -> None: ...
    def wal_rewritten(self, database: str) -> None:
        """Frames that had been captured were overwritten, or lost before a checkpoint's end."""

    def database_opened(self, database: str) -> None:
        """Somebody may write a database whose writes are cached."""

    def database_closed(self, database: str) -> None:
        """Nobody may any more, and everything has come."""

    async def wait_for_room(self, name: str) -> None:
        """Return when it is worth trying again to write to a full disk."""

    def shm_opened(self, database: str) -> None: ...
    def shm_removed(self, database: str) -> None: ...
    def database_removed(self, database: str) -> None: ...

    async def store_in_page_cache(self, inode: int, offset: int, data: bytes) -> None:
        """Have the kernel know these bytes of a file, if it will.

        No write may be in flight there.
        """

    def remove(self, path: str) -> None:
        """Unlink a file; its blocks may be given back later. Raises OSError."""

    def position_text(self, database: str) -> bytes | None:
        """Contents of `NAME-pos`; None: there is no such database."""

    def primary_text(self) -> bytes:
        """Contents of `.primary`."""

    def settle_later(self, capture: DatabaseCapture) -> None:
        """Look at this database again when it has been left alone for a moment."""
