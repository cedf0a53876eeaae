"""Everything of one database's log: DIR/log (segments), DIR/pages.sum, DIR/state.json. One writer
process.

A record is first prepared (or accepted from a primary), which moves `head` in memory, and becomes
part of the log by `flush`.

Always true: TXIDs have no holes, and pre-checksum(n+1) is post-checksum(n), across restarts.
pages.sum never runs ahead of the records on disk within one boot of the machine: it is changed
after the append, so a writer killed between the two redoes the newest records. When the page
checksums do not add up to the head's, they are thrown away rather than used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path

from litemq.errors import FormatError, GapError
from litemq.txlog import ltx, new_start, recovery, retention
from litemq.txlog.checksums import (
    CHECKSUM_FLAG,
    EMPTY,
    ENTRY_SIZE,
    PageChecksums,
    lock_page,
    page_checksum,
    xor_of,
)
from litemq.txlog.durable import storage_error
from litemq.txlog.epochs import EpochTable
from litemq.txlog.ids import Epoch, Txid
from litemq.txlog.ltx import Header, Transaction
from litemq.txlog.new_start import LARGEST_RECORD_BYTES, NewStart
from litemq.txlog.position import Position
from litemq.txlog.segments import SegmentWriter
from litemq.txlog.staged import StagedChecksums
from litemq.txlog.state import State, current_boot_id, load

LOG_FOLDER = "log"
CHECKSUMS_FILE = "pages.sum"


class DatabaseLog:
    """Made by `DatabaseLog.open`."""

    head: Position  # after the newest record, prepared ones included
    last_header: Header | None  # of that record; its WAL fields are where capture resumes
    page_size: int  # 0 until the first transaction
    n_pages: int
    trusted: bool  # False: compare the whole database with the log, then mark_trusted()
    pending_bytes: int

    def __init__(
        self,
        directory: Path,
        state: State,
        segments: SegmentWriter,
        checksums: PageChecksums,
        node_id: int,
    ) -> None:
        self.directory = directory
        self.state = state
        self.checksums = checksums
        self.node_id = node_id
        self._segments = segments
        self._pending: list[bytes] = []
        self._new_start: NewStart | None = None
        self._state_changed = False
        self.pending_bytes = 0
        self.trusted = True
        self._lost = (
            False  # the page checksums were thrown away: only all pages together make a record
        )
        self._take_head()
        self._staged = StagedChecksums(checksums, self.n_pages)

    @classmethod
    def open(cls, directory: Path, *, segment_bytes: int, node_id: int) -> DatabaseLog:
        """Open the log in `directory`, creating it when missing.

        Raises StorageError, FormatError (state.json, or a log that is not the one it speaks of),
        CorruptRecordError.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, "create", directory) from error
        boot_id = current_boot_id()
        saved = load(directory)
        state = saved or State(boot_id=boot_id)
        on_disk = saved.document() if saved is not None else b""
        # without a saved state nothing is known of how the log was left
        power_lost = saved is None or (state.boot_id != boot_id and not state.clean)
        segments = SegmentWriter(directory / LOG_FOLDER, segment_bytes, power_lost=power_lost)
        try:
            return cls._recover(directory, state, segments, node_id, power_lost, on_disk)
        except BaseException:
            segments.close()
            raise

    @classmethod
    def _recover(
        cls,
        directory: Path,
        state: State,
        segments: SegmentWriter,
        node_id: int,
        power_lost: bool,
        on_disk: bytes,
    ) -> DatabaseLog:
        """Finish what a crash interrupted, and decide whether the page checksums can be trusted.

        `on_disk` is what state.json holds, if there is one.
        """
        if state.resetting:
            segments.reset()
            state.resetting = False
            state.suspect = True
        recovery.align(directory, state, segments, adopt=not on_disk)
        checksums = PageChecksums(directory / CHECKSUMS_FILE, 0)
        try:
            log = cls(directory, state, segments, checksums, node_id)
            is_new = not on_disk and not segments.last_txid
            if state.clean and state.last.txid > log.head.txid:
                raise FormatError(
                    f"the log in {directory} ends with TXID {log.head.txid}, "
                    f"but was closed with {state.last.text}"
                )
            # The page checksums may be ahead of a torn log: it has lost records that the database
            # has, and redoing older ones would hide that.
            torn = segments.torn_bytes > 0
            cut = torn and not recovery.are_in_log(checksums, segments, log.head)
            if not log._recover_checksums() or cut or (power_lost and not is_new):
                state.suspect = True
            log.trusted = not state.suspect
            state.boot_id = current_boot_id()
            state.clean = False
            if state.document() != on_disk:
                state.save(directory)
        except BaseException:
            checksums.close()
            raise
        return log

    @property
    def torn_bytes(self) -> int:
        """What was cut from the tail of the log when it was opened."""
        return self._segments.torn_bytes

    @property
    def epochs(self) -> EpochTable:
        return self.state.epochs

    @property
    def starts_anew(self) -> bool:
        """Whether the next `flush` deletes all records that were there before."""
        return self._new_start is not None

    @property
    def flushed(self) -> Position:
        """After the newest record on disk, or where the log starts if there is none."""
        last = self._segments.read_last()
        if last is None:
            return self.state.base
        txid = self._segments.last_txid
        return Position(self.state.epochs.at(txid), txid, ltx.post_checksum_of(last))

    @property
    def range(self) -> tuple[Txid, Txid]:
        """First and last TXID on disk, (0, 0) if there is none."""
        return self._segments.first_txid, self._segments.last_txid

    def page_checksum(self, pgno: int) -> int:
        """Checksum of a page at `head`, so including what is not flushed; 0 if the page is not
        known.
        """
        return self._staged.get(pgno)

    def prepare(
        self,
        epoch: Epoch,
        pages: Iterable[tuple[int, bytes]],
        *,
        commit: int,
        page_size: int,
        timestamp_ms: int,
        wal: tuple[int, int, int, int] | None = None,
        complete: bool = True,
    ) -> bytes | None:
        """Make the next record from a commit's pages; None when they change nothing.

        With more than LARGEST_RECORD_BYTES there is no record (b""): the log will start anew behind
        the transaction. `pages` may be an iterator, which is read once and never held whole.

        Left out of a record are pages that are as they were, the lock page and pages beyond
        `commit`. `wal` is (salt 1, salt 2, offset, size) of the frames in the WAL. The first
        transaction and one that changes the page size hold every page: missing ones are zeros if
        the caller knows that SQLite never wrote them (`complete`). Else, and with the page
        checksums lost, all must be given (ValueError), also behind the end of a database. An older
        epoch is a GapError.
        """
        if not commit:
            return self.drop(epoch, timestamp_ms)
        if epoch < self.state.epochs.last:
            raise GapError(f"epoch {epoch} is over; the log is in {self.state.epochs.last}")
        staged = self._staged
        restarts = page_size != self.page_size
        txid = self.head.txid + 1
        salt1, salt2, offset, size = wal or (0, 0, 0, 0)
        header = Header(
            page_size, commit, txid, txid, timestamp_ms, self.head.checksum,
            offset, size, salt1, salt2, self.node_id,
        )  # fmt: skip
        starts = txid == 1 or not (self.n_pages or complete)
        whole = restarts or starts or self._lost
        every = self._lost or not complete
        most = LARGEST_RECORD_BYTES // page_size
        coming = iter(pages)
        pages = list(islice(coming, most + 1))
        if len(pages) > most or (whole and commit > most):
            return self._prepare_new_start(
                epoch, header, chain(pages, coming), whole=whole, every=every
            )
        if len(pages) > 1:
            pages = sorted(dict(pages).items())
        if whole:
            pages = self._every_page(pages, commit, page_size, every=every)
        lock = lock_page(page_size)
        total = EMPTY if restarts else staged.total
        lookup = staged.get
        changed: list[tuple[int, bytes]] = []
        sums: dict[int, int] = {}
        for page in pages:
            pgno, data = page
            if pgno > commit or pgno == lock:
                continue
            new = page_checksum(pgno, data)
            old = 0 if restarts else lookup(pgno)
            if new != old:
                changed.append(page)
                sums[pgno] = new
                total ^= old ^ new
        if not changed and commit == self.n_pages and not restarts:
            return None
        if commit < self.n_pages and not restarts:
            total ^= staged.xor_beyond(commit)
        total |= CHECKSUM_FLAG
        record = ltx.encode(header, changed, total)
        self._stage(epoch, header, record, sums, total, restarts=restarts)
        return record

    def _prepare_new_start(
        self,
        epoch: Epoch,
        header: Header,
        pages: Iterable[tuple[int, bytes]],
        *,
        whole: bool,
        every: bool,
    ) -> bytes | None:
        """As `prepare`, but all that is kept of the pages is their checksums."""
        commit, page_size = header.commit, header.page_size
        entries = bytearray(commit * ENTRY_SIZE) if whole else self._staged.entries(commit)
        new_start.change(entries, pages, page_size)
        if whole:
            new_start.complete(entries, page_size, every=every)
        total = new_start.total(entries)
        if not whole and commit == self.n_pages and total == self.head.checksum:
            return None
        start = NewStart.behind(header, epoch, total, entries)
        self.state.epochs.append(epoch, header.max_txid)
        self._staged.start_anew(entries, total)
        self._pending = []
        self._new_start = start
        self.page_size, self.n_pages = page_size, commit
        self.head, self.last_header = start.position, header
        self._lost = False
        self.pending_bytes = LARGEST_RECORD_BYTES
        return b""

    def drop(self, epoch: Epoch, timestamp_ms: int) -> bytes | None:
        """Prepare the record of a deleted database: no pages, size 0. None if there is nothing to
        delete.
        """
        if not self.n_pages and not self._lost:
            return None
        if epoch < self.state.epochs.last:
            raise GapError(f"epoch {epoch} is over; the log is in {self.state.epochs.last}")
        txid = self.head.txid + 1
        header = Header(
            self.page_size, 0, txid, txid, timestamp_ms, self.head.checksum, node_id=self.node_id
        )
        record = ltx.encode(header, (), EMPTY)
        self._stage(epoch, header, record, {}, EMPTY, restarts=False)
        return record

    def append_record(self, record: bytes, epoch: Epoch) -> Transaction:
        """Take over a record from a primary, verified; it becomes part of the log by `flush`.

        Raises FormatError when it is damaged or lies about the database's checksum, GapError when
        it does not follow `head`, is of an older epoch, or when the page checksums were lost.
        """
        transaction = ltx.decode(record)
        header, head = transaction.header, self.head
        if header.min_txid != header.max_txid or header.min_txid != head.txid + 1:
            raise GapError(f"TXID {header.min_txid} to {header.max_txid} after TXID {head.txid}")
        if header.pre_checksum != head.checksum:
            raise GapError(
                f"TXID {header.min_txid} follows another history: its pre-apply checksum is "
                f"{header.pre_checksum:016x}, the log is at {head.checksum:016x}"
            )
        if epoch < self.state.epochs.last:
            raise GapError(f"epoch {epoch} is over; the log is in {self.state.epochs.last}")
        if self._lost:
            raise GapError("the page checksums were lost: the database must be compared first")
        restarts = header.page_size != self.page_size
        sums = {pgno: page_checksum(pgno, data) for pgno, data in transaction.pages}
        total = EMPTY if restarts else self._staged.total
        for pgno, new in sums.items():
            total ^= new if restarts else self._staged.get(pgno) ^ new
        if header.commit < self.n_pages and not restarts:
            total ^= self._staged.xor_beyond(header.commit)
        if total | CHECKSUM_FLAG != transaction.post_checksum:
            raise FormatError(f"TXID {header.min_txid} does not lead to the checksum that it names")
        self._stage(epoch, header, record, sums, transaction.post_checksum, restarts=restarts)
        return transaction

    def flush(self) -> list[bytes]:
        """Append everything prepared as one group and return it.

        If the log is to start anew, it does so first: then `head` is what there is to tell. On
        StorageError it all stays prepared, `head` stays where it is, and the next flush tries
        again.
        """
        if self._new_start is not None:
            self._start_anew(self._new_start)
            self._new_start = None
            self._staged.started()
            self.pending_bytes = sum(map(len, self._pending))
        records = self._pending
        if not records:
            return records
        if self._state_changed:
            self.save_state()
        self.checksums.reserve(self._staged.n_pages)
        self._segments.append(self.head.txid - len(records) + 1, records)
        self._staged.write()
        self._pending = []
        self.pending_bytes = 0
        return records

    def sync(self) -> None:
        """Make everything flushed durable. Raises StorageError; after a failure the log must be
        reopened.
        """
        self._segments.sync()

    def begin_sync(self) -> Callable[[], None]:
        """What `sync` does, as a call for another thread. Both raise StorageError."""
        return self._segments.begin_sync()

    def mark_trusted(self) -> None:
        """The caller has compared the whole database with the log, and prepared and flushed what
        differed.

        ValueError if that cannot be true.
        """
        if self._lost or self._pending or self._new_start is not None:
            raise ValueError("the comparison has not been prepared and flushed")
        self.trusted = True
        if self.state.suspect:
            self.state.suspect = False
            self.save_state()

    def save_state(self) -> None:
        """Write state.json after a change of `state`. Raises StorageError."""
        self.state.save(self.directory)
        self._state_changed = False

    def save_state_with_records(self) -> None:
        """Write state.json before the records that are prepared next; `save_state` if none is."""
        self._state_changed = True

    def reset(
        self,
        position: Position,
        page_size: int,
        n_pages: int,
        page_checksums: bytes,
        epochs: EpochTable | None = None,
    ) -> None:
        """After a repair: the log starts anew behind `position`, with these page checksums; what it
        held is deleted.

        `epochs` is the primary's table. Raises FormatError, and then nothing has changed, when the
        checksums are not those of `position`. A crash on the way leaves an empty log that is not
        trusted.
        """
        total = _total(page_checksums, n_pages)
        if total != (position.checksum or EMPTY):
            raise FormatError("the page checksums do not add up to the checksum of the position")
        self.state.epochs = _epochs_up_to(epochs, position)
        self._empty(position, page_size, n_pages, page_checksums, suspect=False)
        self._pending = []
        self._new_start = None
        self.pending_bytes = 0
        self._lost = False
        self.trusted = True
        self._take_head()
        self._staged = StagedChecksums(self.checksums, n_pages)

    def _start_anew(self, start: NewStart) -> None:
        """As `reset`, by the primary. Raises StorageError; then it may be tried again."""
        self.state.captured = list(start.captured)
        self.state.captured_txid = start.position.txid
        self._empty(
            start.position, start.page_size, start.n_pages, start.entries, suspect=not self.trusted
        )

    def _empty(
        self,
        position: Position,
        page_size: int,
        n_pages: int,
        page_checksums: bytes | bytearray,
        *,
        suspect: bool,
    ) -> None:
        """Delete every record, and have the log start behind `position`."""
        state = self.state
        self.checksums.reserve(n_pages)
        state.base, state.page_size, state.n_pages = position, page_size, n_pages
        state.resetting = True
        state.save(self.directory)
        self._segments.reset()
        self.checksums.resize(0)
        self.checksums.resize(n_pages)
        self.checksums.write(1, page_checksums)
        self.checksums.sync()
        state.resetting, state.suspect = False, suspect
        state.save(self.directory)
        self._state_changed = False

    def enforce_retention(self, now_s: float, max_age_s: float, max_bytes: int) -> int:
        """Delete what is too old or too much; returns how many segments. The newest stays."""
        if self._new_start is not None:
            return 0  # all of them go with it; a first try may have moved the base already
        segments = [one for one in self._segments.segments() if one.last_txid >= one.first_txid]
        gone = retention.expired(segments, now_s, max_age_s, max_bytes)
        if not gone:
            return 0
        first = segments[len(gone)]
        # the base moves first: segments before it are deleted at the next start if we die here
        recovery.move_base(self.state, first.path)
        self.state.save(self.directory)
        return self._segments.drop_before(first.first_txid)

    def close(self, *, clean: bool) -> None:
        """`clean` syncs everything, so that the page checksums are good even after a restart of the
        machine.
        """
        if clean and not self._pending and self._new_start is None:
            self._segments.sync()
            self.checksums.sync()
            self.state.clean = True
            self.state.last = self.head
            self.state.save(self.directory)
        self._segments.close()
        self.checksums.close()

    def _every_page(
        self, pages: Iterable[tuple[int, bytes]], commit: int, page_size: int, *, every: bool
    ) -> list[tuple[int, bytes]]:
        given = dict(pages)
        lock = lock_page(page_size)
        missing = [n for n in range(1, commit + 1) if n not in given and n != lock]
        if missing:
            new_start.check_missing(missing[0], commit, every=every)
        given.update(dict.fromkeys(missing, bytes(page_size)))
        return sorted(given.items())

    def _stage(
        self,
        epoch: Epoch,
        header: Header,
        record: bytes,
        sums: dict[int, int],
        total: int,
        *,
        restarts: bool,
    ) -> None:
        if self.state.epochs.append(epoch, header.max_txid):
            self._state_changed = True
        self._staged.stage(sums, header.commit, total, restarts=restarts)
        self.page_size = header.page_size
        self.n_pages = header.commit
        self.head = Position(epoch, header.max_txid, total)
        self.last_header = header
        self._lost = False
        self._pending.append(record)
        self.pending_bytes += len(record)

    def _take_head(self) -> None:
        """Set head, size and last header from what is on disk."""
        last = self._segments.read_last()
        if last is None:
            base = self.state.base
            self.head, self.last_header = base, None
            self.page_size, self.n_pages = self.state.page_size, self.state.n_pages
            return
        header = ltx.peek(last)
        self.last_header = header
        epoch = self.state.epochs.at(header.max_txid)
        self.head = Position(epoch, header.max_txid, ltx.post_checksum_of(last))
        self.page_size, self.n_pages = header.page_size, header.commit

    def _recover_checksums(self) -> bool:
        """Whether the page checksums are those of the head; else they are lost."""
        found = recovery.redo(self.checksums, self._segments, self.head, self.n_pages)
        self._lost = not found
        self._staged = StagedChecksums(self.checksums, self.n_pages)
        return found


def _epochs_up_to(epochs: EpochTable | None, position: Position) -> EpochTable:
    """The part of the table that speaks of `position` and before it."""
    entries = [entry for entry in (epochs.to_list() if epochs else []) if entry[1] <= position.txid]
    if not entries or entries[-1][0] != position.epoch:
        entries = [(position.epoch, position.txid)] if position.txid else []
    return EpochTable(entries)


def _total(page_checksums: bytes, n_pages: int) -> int:
    if len(page_checksums) != n_pages * ENTRY_SIZE:
        raise FormatError(f"{len(page_checksums)} bytes of checksums for {n_pages} pages")
    return xor_of(page_checksums) | CHECKSUM_FLAG
