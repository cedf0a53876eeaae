"""One database of a replica: its log, the SQLite connection that writes it, and what is still to be
applied.

Always true: a record is in the log before SQLite gets it; what SQLite shows is the state after some
TXID, and never an earlier one than it has shown before. Where the file stands is stored lazily,
since redoing whole pages is harmless.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from litemq import log
from litemq.actors import file_image
from litemq.actors.batches import Batch, merge
from litemq.actors.common_point import Common, CommonPoint
from litemq.actors.damaged_log import open_log
from litemq.actors.divergence import Divergence, keep, last_common, utc_now
from litemq.actors.layout import Layout, PositionFile
from litemq.errors import LiteMQError, NotADatabaseError, StorageError
from litemq.fs.dbpage import PageWriter
from litemq.fs.journal import is_active
from litemq.fs.locks import wal_writer_active
from litemq.fs.pages import bookkeeping, parse_header
from litemq.fs.sqlite_errors import BusyError
from litemq.transport.messages import Head, WirePosition
from litemq.txlog import ltx
from litemq.txlog.checksums import lock_page
from litemq.txlog.epochs import EpochTable
from litemq.txlog.ltx import Transaction
from litemq.txlog.position import ZERO, Position
from litemq.txlog.segment_reader import SegmentReader

#: what one SQLite transaction takes in at most, and what waits in memory (bytes of page images)
BATCH_BYTES = 16 * 1024 * 1024
#: read from the log at once (bytes)
READ_BYTES = 1024 * 1024
#: how long a write keeps new readers out while it waits for those that are there
READERS_WAIT_S = 0.025
#: how often a change of journal mode that readers block is tried again
MODE_RETRY_S = 1.0
#: a file up to this size is kept beside a log that diverged, even if that log tells everything
KEEP_FILE_BYTES = 64 * 1024 * 1024


class ReplicaDatabase:
    """The log and the file of one database on a replica."""

    def __init__(
        self,
        name: str,
        layout: Layout,
        path: Path,
        segment_bytes: int,
        *,
        backing: Path,
        cached: bool = False,
    ) -> None:
        """`path` is where applications see the file, `backing` the file itself.

        `cached`: what is written there stays in the kernel for a while, and may have died with a
        mount.
        """
        self.name = name
        self.path = path
        self._backing = backing
        #: no mount is there to keep others from writing
        self._guarded = path == backing
        self._cached = cached
        self.directory = layout.database(name)
        self.log = open_log(layout, name, segment_bytes)
        state = self.log.state
        was_primary = state.role == "primary"
        handed_back = was_primary and state.applied == self.log.head and not state.unlogged
        #: this node was the primary, and its file may have commits that are not in the log
        self.unlogged = was_primary and not handed_back
        if state.role != "replica" and not self.unlogged:
            state.role = "replica"
            self.log.save_state()
        self.applied: Position = self.log.head if self.unlogged else state.applied
        if self.log.trusted and self.applied.txid < self.log.state.base.txid:
            self.applied = self.log.state.base  # a log starts behind what its file shows
        self.timestamp_ms = 0
        try:
            self._position = PositionFile(layout.position(name))
        except StorageError:
            self.log.close(clean=False)
            raise
        self._reader = SegmentReader(self.directory / "log")
        self._writer: PageWriter | None = None
        self._pending: list[tuple[int, Transaction]] = []
        self._pending_bytes = 0
        self._tail = bytes.fromhex(self.log.state.page1_tail)
        self._mode_retry_s = 0.0
        self._busy_timeout_s = 0.0
        self._saved = self.applied
        self._unsaved_bytes = 0
        #: up to this TXID the file may have been brought before the last end of this actor
        self._doubtful = self.log.head.txid
        self._fingerprint = file_image.fingerprint(path)
        #: whether the file is known to be what this log made it
        self.checked = not self.log.n_pages or self._left_alone() or (handed_back and not cached)
        self.unsynced = True
        #: the file may be of an earlier state: what the kernel had cached of it has gone
        self.lost = cached and not self.checked
        self.show()

    def lose(self) -> None:
        """A mount has died whose writes the kernel cached. Until it is compared, it is no state."""
        self.checked, self.lost = False, True
        self.show()

    def compared(self) -> None:
        """The file is what the log says."""
        self.checked, self.lost = True, False
        self.show()

    @property
    def stored(self) -> Path | None:
        """The file behind the mount, if all that is written comes there at once."""
        return None if self._guarded or self._cached else self._backing

    @property
    def tail(self) -> bytes:
        """The bookkeeping bytes of page 1 as they stand in the log."""
        return self._tail

    @property
    def unknown(self) -> bool:
        """Whether there is a file of which the log knows nothing."""
        return not self.log.n_pages and os.path.exists(self.path) and os.path.getsize(self.path) > 0

    @property
    def caught_up(self) -> bool:
        """Whether the file shows everything that is in the log."""
        return self.applied.txid == self.log.head.txid

    @property
    def wire_applied(self) -> Head:
        return Head(
            self.name,
            WirePosition.of(self.applied),
            self.log.page_size,
            self.log.n_pages,
            self.timestamp_ms,
        )

    @property
    def wire_head(self) -> Head:
        """Where the log is; the file may not show it yet."""
        return Head(
            self.name,
            WirePosition.of(self.log.head),
            self.log.page_size,
            self.log.n_pages,
            self.timestamp_ms,
        )

    def has_had(self, position: Position) -> bool:
        """Whether this log went through that state; true also where it no longer reaches back."""
        try:
            records = self._reader.read(position.txid + 1, 1, 1)
        except LiteMQError:
            return True
        return not records or ltx.peek(records[0]).pre_checksum == position.checksum

    def checksum_at(self, txid: int) -> int | None:
        """Of the database after that transaction, as far as the log tells. Raises LiteMQError."""
        found = self._reader.checksum(txid)
        base = self.log.state.base
        return base.checksum if found is None and txid == base.txid else found

    def common_point(self) -> CommonPoint | None:
        """The search for where this log parts from the primary's; None if it holds nothing.

        Raises LiteMQError.
        """
        head = self.log.flushed
        first = self.log.range[0] - 1 if self.log.range[0] else head.txid
        return CommonPoint(first, head.txid, self.checksum_at) if head.txid else None

    def show(self) -> None:
        """Bring `NAME-pos` up to date."""
        if self.applied.txid and self.log.n_pages and not self.lost:
            self._position.show(self.applied)
        else:
            self._position.hide()

    # --- taking in

    def take(self, record: bytes, epoch: int) -> None:
        """Add the next record to the log (staged until `flush`). Raises GapError, FormatError."""
        if not self.log.n_pages or ltx.peek(record).page_size != self.log.page_size:
            ltx.check_complete(ltx.decode(record))
        transaction = self.log.append_record(record, epoch)
        follows = not self._pending or (
            self._pending[-1][1].header.max_txid + 1 == transaction.header.min_txid
        )
        if follows and self._pending_bytes < BATCH_BYTES:
            self._pending.append((epoch, transaction))
            self._pending_bytes += sum(len(data) for _, data in transaction.pages)
        # else: it is read from the log again when its turn comes

    def flush(self) -> bool:
        """Append what was taken in; true if there was anything.

        Raises StorageError; it stays staged then.
        """
        if not self.log.flush():
            return False
        self.unsynced = True
        return True

    # --- applying

    def apply(self, beat: Callable[[], None]) -> bool:
        """Hand the next batch to SQLite; true if there is more.

        `beat` is called now and then while much is read. Raises BusyError, StorageError,
        NotADatabaseError.
        """
        batch = self._next_batch(beat)
        if batch is None:
            return False
        if self._guarded and self.touched:
            self.checked = False  # what somebody else has done would look like ours below
        if batch.dropped:
            self.remove_files()
        if batch.commit:
            self._write(batch)
        self.applied = batch.last
        self._pending = [
            entry for entry in self._pending if entry[1].header.max_txid > self.applied.txid
        ]
        self._pending_bytes = sum(
            len(data) for _, transaction in self._pending for _, data in transaction.pages
        )
        self._fingerprint = file_image.fingerprint(self.path)
        self._unsaved_bytes += batch.bytes
        if self._unsaved_bytes > BATCH_BYTES:
            self.save()
        self.show()
        return not self.caught_up

    def _next_batch(self, beat: Callable[[], None]) -> Batch | None:
        flushed = self.log.range[1] or self.log.state.base.txid
        wanted = self.applied.txid + 1
        if wanted > flushed:
            return None
        if wanted <= self._doubtful:
            # What the file holds of this is not known: it must not show any state in between.
            return merge(self._logged(wanted, self._doubtful, beat), limit=None)
        entries = [
            entry for entry in self._pending if wanted <= entry[1].header.max_txid <= flushed
        ]
        if not entries or entries[0][1].header.max_txid != wanted:
            return merge(self._logged(wanted, flushed, beat), limit=BATCH_BYTES)
        return merge(entries, limit=BATCH_BYTES)

    def _logged(
        self, first: int, last: int, beat: Callable[[], None]
    ) -> Iterator[tuple[int, Transaction]]:
        """Transactions from the log, with their epochs. Raises TooOldError, FormatError."""
        while first <= last:
            beat()
            for record in self._reader.read(first, READ_BYTES):
                if first <= last:
                    yield self.log.epochs.at(first), ltx.decode(record)
                first += 1

    def _write(self, batch: Batch) -> None:
        page1 = batch.pages.get(1)
        writer = self.writer()
        wal = writer.wal if page1 is None else parse_header(page1).wal
        if wal != writer.wal and time.monotonic() < self._mode_retry_s:
            wal = writer.wal
        pages = sorted(batch.pages.items())
        if not writer.n_pages and pages and pages[0][0] != 1:
            raise NotADatabaseError(f"{self.name} is empty, and its first page has not changed")
        try:
            writer.apply(pages, commit=batch.commit, page_size=batch.page_size, wal=wal)
        except BusyError:
            if wal == writer.wal or not writer.n_pages or writer.page_size != batch.page_size:
                raise
            # readers keep the journal mode from changing: go on in the old one
            self._mode_retry_s = time.monotonic() + MODE_RETRY_S
            writer.apply(pages, commit=batch.commit, page_size=batch.page_size, wal=writer.wal)
        if page1 is not None:
            self._tail = bookkeeping(page1)
            self.timestamp_ms = time.time_ns() // 1_000_000

    def writer(self) -> PageWriter:
        """The connection that writes.

        Made when first needed, kept so that `-wal` and `-shm` stay. Raises BusyError.
        """
        if self._writer is None:
            self._make_way()
            if self.unlogged:
                self._refuse_beside_a_writer()
            if not os.path.lexists(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                os.close(fd)
            self._writer = PageWriter(
                str(self.path),
                busy_timeout_s=self._busy_timeout_s,
                guarded=self._guarded,
            )
        return self._writer

    def _make_way(self) -> None:
        """A link in the place of a file or a folder leads to those of another database: it goes.

        Links stay on the node where they were made, as its primary. Raises OSError.
        """
        folders = [str(each) for each in self.path.parents][: self.name.count("/")]
        files = [f"{self.path}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")]
        for place in (*reversed(folders), *files):
            with contextlib.suppress(OSError):  # mostly: it is none
                target = os.readlink(place)
                os.unlink(place)
                log.get().warning(
                    "a symbolic link was in the way", db=self.name, link=place, target=target
                )

    def _refuse_beside_a_writer(self) -> None:
        """None can begin any more. One that had begun may still publish frames it has written."""
        # before the connection is opened: closing this descriptor would drop its locks
        with contextlib.suppress(FileNotFoundError), open(f"{self.path}-shm", "rb") as index:
            if wal_writer_active(index.fileno()):
                raise BusyError(f"{self.name}: an application is about to end a transaction")

    def wait_for_readers(self, wait: bool) -> None:
        """Have writes wait a moment for readers, keeping new ones out; or give way at once."""
        self._busy_timeout_s = READERS_WAIT_S if wait else 0.0
        if self._writer is not None:
            self._writer.set_busy_timeout(self._busy_timeout_s)

    def close_writer(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(Exception):  # the mount may be gone
                self._writer.close()
            self._writer = None

    def remove_files(self) -> None:
        """The database was dropped."""
        self.close_writer()
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}{suffix}")
        self._remove_empty_folders()

    def _remove_empty_folders(self) -> None:
        """Those that were there for this database."""
        folder = self.path.parent
        with contextlib.suppress(OSError):  # something else is in it
            for _ in range(self.name.count("/")):
                folder.rmdir()
                folder = folder.parent

    # --- state

    def save(self) -> None:
        """Store how far the file is, now and then."""
        if self._saved != self.applied and not self.unlogged:
            self.log.state.applied = self.applied
            self.log.state.page1_tail = self._tail.hex()
            self.log.save_state()
            self._saved = self.applied
            self._unsaved_bytes = 0

    def complete(self) -> None:
        """Store what a log writer has to know that goes on with this log."""
        state = self.log.state
        state.captured = list((self._writer and self._writer.wal_end()) or ())
        state.captured_txid = self.applied.txid
        self._saved = ZERO
        self.save()

    def _left_alone(self) -> bool:
        """Whether the file is as a clean end left it; asked once, for it is about to change."""
        left, self.log.state.fingerprint = self.log.state.fingerprint, ""
        if left:
            self.log.save_state()
        return left == repr(file_image.fingerprint(self._backing))

    def close(self, *, clean: bool) -> None:
        """At the end of this process; not `clean` if another one goes on with log and file."""
        if clean:
            self.close_writer()
        # else SQLite's connection ends with the process: its close might copy the WAL to the file
        with contextlib.suppress(Exception):  # a full disk: what is lost is redone
            self.save()
            if clean and self.checked:
                self.log.state.fingerprint = repr(file_image.fingerprint(self._backing))
        self.log.close(clean=clean)
        self._position.close()

    # --- comparing the file with the log

    @property
    def touched(self) -> bool:
        """Whether anyone but us has changed the file since the last batch."""
        return file_image.fingerprint(self.path) != self._fingerprint

    def file_checksums(self, beat: Callable[[], None]) -> tuple[int, bytes]:
        """Of the file as it is, with the log's bookkeeping bytes; see `file_image.checksums`."""
        self._make_way()
        if not os.path.exists(self.path) and os.path.exists(self._backing):
            raise BusyError(f"{self.path}: the mount is away")
        self._roll_back_rest()
        return file_image.checksums(self.path, self.log.n_pages, self._tail, beat)

    def _roll_back_rest(self) -> None:
        """Of a program that was cut off within its transaction: who only reads can't roll back.

        Where the kernel caches writes, its journal may come after this node has become a replica.
        Raises BusyError, StorageError.
        """
        try:
            with open(f"{self.path}-journal", "rb") as journal:
                active = is_active(journal.read(1))
        except FileNotFoundError:
            return
        if active:
            self.close_writer()
            self.writer()  # a new one has SQLite look at the journal

    def differing_pages(self, beat: Callable[[], None]) -> int:
        """How many pages of the file are not what the log says; only meaningful when caught up.

        Afterwards the file counts as seen; not if it raises, as BusyError while somebody writes it.
        """
        as_it_is = file_image.fingerprint(self.path)
        differing = self._differing_pages(beat)
        self._fingerprint = as_it_is
        return differing

    def _differing_pages(self, beat: Callable[[], None]) -> int:
        page_size, sums = self.file_checksums(beat)
        if page_size != self.log.page_size:
            return self.log.n_pages
        lock = lock_page(page_size) if page_size else 0
        differing = 0
        for number in range(1, max(self.log.n_pages, len(sums) // 8) + 1):
            known = self.log.page_checksum(number)
            found = int.from_bytes(sums[(number - 1) * 8 : number * 8], "big")
            # 0 in the log: SQLite never wrote the page, so it may hold anything
            if (known != found and known and number != lock) or number > self.log.n_pages:
                differing += 1
        return differing

    def seen(self) -> None:
        """The file as it is now is what it should be, or about to be looked at."""
        self._fingerprint = file_image.fingerprint(self.path)

    # --- before a repair

    def log_rest(self, beat: Callable[[], None]) -> int:
        """Log what the file has beyond the log, as one transaction; how many pages it has.

        The node was killed, or lost power, as the primary, or it ceased to be one while an
        application was about to end a commit. What a program has half written over the file is no
        commit. Raises BusyError, StorageError.
        """
        changed, sums = 0, b""
        try:
            if os.path.exists(self.path) and os.path.getsize(self.path):
                self.writer()  # SQLite's own recovery comes first
            page_size, sums = self.file_checksums(beat)
            if sums and file_image.is_cut_off(self.path):
                sums = b""
            changed = self._prepare_rest(page_size, sums) if sums else 0
        except NotADatabaseError:
            self.close_writer()  # the log has what there is
        self.log.flush()
        self.unlogged = self.lost = False
        # a file that was emptied and not written anew, or by half, is to be found and repaired
        self.checked = bool(sums) or not self.log.n_pages
        self.applied = self._saved = self.log.head
        self._doubtful = self.log.head.txid
        state = self.log.state
        state.role, state.applied, state.unlogged = "replica", self.log.head, False
        self.log.save_state()
        if self.checked:
            self.seen()
        self.show()
        return changed

    def _prepare_rest(self, page_size: int, sums: bytes) -> int:
        """Make the record of it; how many pages differ."""
        log, count = self.log, len(sums) // 8
        numbers = array(
            "L",
            (
                number
                for number in range(1, count + 1)
                if int.from_bytes(sums[(number - 1) * 8 : number * 8], "big")
                != (log.page_checksum(number) if page_size == log.page_size else 0)
            ),
        )
        if numbers or count != log.n_pages:
            log.prepare(
                max(log.epochs.last, 1),
                file_image.pages(self.path, numbers),
                commit=count,
                page_size=page_size,
                timestamp_ms=time.time_ns() // 1_000_000,
            )
        return len(numbers)

    def keep_diverged(
        self,
        directory: Path,
        theirs: EpochTable,
        their_head: Position,
        *,
        compared: Common | None,
        primary: str,
        primary_epoch: int,
        reason: str | None,
        beat: Callable[[], None],
    ) -> Divergence | None:
        """Keep what a repair is about to replace, if the primary does not have it; else None.

        `compared` is what a search by checksums has found. `reason` is None unless checksums have
        shown that the histories part. Raises OSError, LiteMQError: then nothing may be replaced.
        """
        log = self.log
        first, last = log.range
        mine = log.flushed
        if compared is not None and compared.compared:
            if not compared.parts:
                return None
            common = compared.txid or None
        else:  # no TXID of which both know the checksum: the epochs have to do
            common = last_common(log.epochs, mine, theirs, their_head, differ=reason is not None)
        if not mine.txid or (common is not None and common >= mine.txid):
            return None
        checksums = log.checksums.read(1, log.checksums.n_pages)
        about = Divergence(
            id="",
            database=self.name,
            when=utc_now(),
            reason=reason or "the primary's history goes on from an earlier transaction",
            epochs=log.epochs.to_list(),
            head=mine,
            first_txid=first,
            last_txid=last,
            page_size=log.page_size,
            pages=len(checksums) // 8,
            primary=primary,
            primary_epoch=primary_epoch,
            last_common=common,
            directory=directory,
        )
        log.sync()
        # without the log that leads there, the state itself is all there is of them
        needed = common is not None and (not first or first > common + 1)
        small = about.pages * about.page_size <= KEEP_FILE_BYTES
        write = None
        if about.pages and (needed or small):
            write = functools.partial(
                file_image.copy, self.path, pages=about.pages, tail=self._tail, beat=beat
            )
        return keep(directory, about, self.directory / "log", checksums, write)

    def suspect(self) -> None:
        """The file is about to leave the states of the log.

        A crash from here on ends in another repair.
        """
        self.log.state.suspect = True
        self.log.state.applied = ZERO
        self.log.state.role = "replica"
        self.log.save_state()
        self._saved = ZERO

    def write_repair(
        self, pages: Iterator[tuple[int, bytes]], head: Head, page1: bytes | None
    ) -> None:
        """Hand the pages of a repair to SQLite as one transaction.

        Raises BusyError, StorageError.
        """
        if not head.pages:
            self.remove_files()
            return
        try:
            writer = self.writer()
        except NotADatabaseError:
            # nothing SQLite can open: the repair holds every page
            self.remove_files()
            writer = self.writer()
        wal = writer.wal if page1 is None else parse_header(page1).wal
        writer.apply(pages, commit=head.pages, page_size=head.page_size, wal=wal)

    def repaired(
        self, head: Head, checksums: bytes, epochs: list[tuple[int, int]], page1: bytes | None
    ) -> None:
        """The file now is the state `head`: start the log anew behind it."""
        position = head.position.value
        if page1 is not None:
            self._tail = bookkeeping(page1)
        # with the reset, not after it: a kill in between would leave a log that nobody has applied
        self.log.state.applied = position
        self.log.state.page1_tail = self._tail.hex()
        self.log.reset(
            position, head.page_size, head.pages, checksums, EpochTable.from_list(epochs)
        )
        self.applied = position
        self._doubtful = 0
        self._pending = []
        self._pending_bytes = 0
        self.timestamp_ms = head.timestamp_ms
        self.save()
        self.seen()
        self.compared()
