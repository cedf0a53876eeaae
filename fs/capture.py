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


class Places:
    """Where a file was written, or that it is not known where."""

    __slots__ = ("_run", "everything", "lengths")

    def __init__(self) -> None:
        #: offset -> bytes from there on
        self.lengths: dict[int, int] = {}
        #: the places are not known: any byte may have changed
        self.everything = False
        #: the place that was the last to change, and where its bytes end
        self._run = (0, -1)

    def __bool__(self) -> bool:
        return self.everything or bool(self.lengths)

    def note(self, offset: int, length: int) -> None:
        start, end = self._run
        if offset == end and start in self.lengths:  # SQLite writes in the order of the file
            offset, length = start, end - start + length
        if self.lengths.get(offset, 0) < length:
            self.lengths[offset] = length
            self._run = (offset, offset + length)
            if len(self.lengths) > MOST_PLACES:
                self.lengths.clear()
                self.everything = True

    def clear(self) -> None:
        self.lengths.clear()
        self.everything = False

    def page_numbers(self, page_size: int, last: int = MAX_PAGE) -> list[int] | None:
        """The pages that they touch, up to the `last`; None for all, or too many to be told."""
        if self.everything or sum(self.lengths.values()) > MOST_NUMBERS * page_size:
            return None
        numbers: set[int] = set()
        for offset, length in self.lengths.items():
            begin, end = offset // page_size, (offset + length - 1) // page_size
            numbers.update(range(begin + 1, end + 2))
        return sorted(number for number in numbers if number <= last)


class DatabaseCapture:
    """The changes of one database name, across the lives of the files that bear it."""

    __slots__ = (
        "captured_end",
        "checkpoint_open",
        "claimed",
        "dirty",
        "foreign",
        "gates",
        "generation",
        "journal_active",
        "name",
        "never_synced",
        "overwritten",
        "page_size",
        "proof_timer",
        "rewritten",
        "settle_timer",
        "synced",
        "touched_s",
        "wal_end",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.generation = 0
        self.settle_timer = self.proof_timer = False
        self.begin()

    def begin(self) -> None:
        """Nothing is known to have changed."""
        self.dirty = Places()
        #: written in WAL mode, by a checkpoint as it seems: the log has all of it if that is so
        self.claimed = Places()
        #: places written while gates are held, and how many are
        self.rewritten: set[int] = set()
        self.gates = 0
        #: in WAL mode, and written by something that is no checkpoint
        self.overwritten = False
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
        #: when the database file or its WAL was last written (monotonic seconds)
        self.touched_s = 0.0

    @property
    def uncaptured(self) -> bool:
        """Whether the WAL may hold frames that are not in the log."""
        return self.wal_end > self.captured_end

    @property
    def explained(self) -> bool:
        """Whether a journal or a WAL accounts for writes to the database file."""
        return self.journal_active or (self.wal_end > 0 and not self.overwritten)

    @property
    def everything(self) -> bool:
        """The pages that changed are not known: compare all of them."""
        return self.dirty.everything

    @everything.setter
    def everything(self, value: bool) -> None:
        self.dirty.everything = value

    @property
    def changed(self) -> bool:
        return bool(self.dirty)

    def note_write(self, offset: int, length: int) -> None:
        """Bytes of the database file were written outside a checkpoint."""
        if self.gates:
            self.rewritten.add(offset)
        self.dirty.note(offset, length)

    async def forget_behind(self, gate: Coroutine[None, None, bool]) -> None:
        """Wait at the gate; if all that was written before is in the log then, it is not dirty.

        It stays `dirty` meanwhile: a comparison under way is to have it. So does what is written
        meanwhile, also in the same place.
        """
        places = self.dirty.lengths
        before = dict(places)
        self.gates += 1
        try:
            proven = await gate
            for offset, length in before.items() if proven else ():
                if places.get(offset) == length and offset not in self.rewritten:
                    del places[offset]
                    self.claimed.note(offset, length)
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
        """Nothing of the database file is left to capture."""
        self.dirty.clear()
        self.overwritten = False

    def file_gone(self) -> None:
        """Another file may bear the name from now on."""
        self.forget()
        self.claimed.clear()
        self.checkpoint_open = self.foreign = False
        self.page_size = 0

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
        numbers = self.dirty.page_numbers(size, MAX_PAGE if unexplained else pages)
        everything = numbers is None
        numbers = numbers or []
        data: bytes | None = None
        if not everything and len(numbers) * size <= HANDOVER_BYTES:
            images = [os.pread(fd, size, (number - 1) * size) for number in numbers]
            if all(len(image) == size for image in images):
                data = b"".join(images)
        self.forget()
        self.foreign = False
        return Commit(size, pages, numbers, everything, data)


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

    def checkpointing(self, database: str) -> bool:
        """Whether somebody holds the lock under which SQLite writes a database in WAL mode."""

    def rollback_writer(self, database: str, thread: int | None = None) -> bool:
        """Whether somebody is seen to hold the lock under which SQLite writes a database in a
        rollback mode; `thread`: and not another process than the one of this thread.
        """

    def wal_locked(self, database: str) -> bool:
        """Whether somebody holds the lock under which SQLite cuts a WAL."""

    def changed_by_hand(self, database: str, what: str) -> None:
        """Something that is no SQLite has taken `what` from a database: compare all of it."""

    def prove_later(self, capture: DatabaseCapture) -> None:
        """When the database has been left alone, have what is claimed of it compared."""

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

    async def position_is_fresh(self, database: str) -> None:
        """Return when the position shows what has been committed before, or soon."""

    def position_text(self, database: str) -> bytes | None:
        """Contents of `NAME-pos`; None: there is no such database."""

    def primary_text(self) -> bytes:
        """Contents of `.primary`."""

    def settle_later(self, capture: DatabaseCapture) -> None:
        """Look at this database again when it has been left alone for a moment."""
