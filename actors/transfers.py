"""Catching a replica up: from the log, or by the pages that differ.

A transfer sends pieces while it has credit and stops when it has none. Always true: a repair ends
with the log records made since it began, so pages read at different moments come out as one state.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable

import lz4.block

from litemq import log
from litemq.actors.committed_pages import CommittedPages
from litemq.actors.layout import Layout
from litemq.actors.replicas import Replica
from litemq.errors import CorruptRecordError, LiteMQError
from litemq.fs.dbpage import PageReader
from litemq.fs.pages import BOOKKEEPING_BYTES, with_bookkeeping
from litemq.fs.sqlite_errors import BusyError
from litemq.transport import messages as m
from litemq.txlog import ltx
from litemq.txlog.checksums import lock_page, page_checksum, read_page_checksums
from litemq.txlog.position import Position
from litemq.txlog.segment_reader import SegmentReader, TooOldError
from litemq.txlog.state import load as load_state
from litemq.txlog.store import CHECKSUMS_FILE, LOG_FOLDER

#: a piece of a transfer, before compression (bytes)
CHUNK_BYTES = 512 * 1024
MAX_RECORDS = 2048
#: pages read in one SQLite read transaction (bytes)
READ_BYTES = 256 * 1024
#: so many pages at most are looked for in the log
MOST_FROM_LOG = 4096

#: to read pages, those that it finds
Way = Callable[[list[int]], dict[int, bytes]]


class Source:
    """Where transfers take things from.

    The logs, the checksums and the committed pages of this node.
    """

    def __init__(
        self,
        layout: Layout,
        heads: dict[str, m.Head],
        *,
        open_path: Callable[[str], str],
        ask_barrier: Callable[[Transfer], None],
        relays: bool = False,
    ) -> None:
        """`relays`: the logs come first here, and files may show less than they hold."""
        self._layout = layout
        self.heads = heads
        self._open_path = open_path
        self.ask_barrier = ask_barrier
        self.relays = relays

    def records(self, database: str, first: int, max_bytes: int, most: int) -> list[bytes]:
        """Records from TXID `first` on, which the head says are there; one at least.

        Raises TooOldError, CorruptRecordError, StorageError.
        """
        log = SegmentReader(self._layout.database(database) / "log")
        records = log.read(first, max_bytes, most)
        if not records:
            raise TooOldError(f"the log of {database} has started anew behind TXID {first}")
        return records

    def known(self, database: str, txids: list[int]) -> tuple[int, dict[int, int]]:
        """The oldest TXID of which the database's checksum is known, and those of these.

        Raises LiteMQError.
        """
        log = SegmentReader(self._layout.database(database) / "log")
        head = self.heads[database].position.value
        first = log.range()[0]
        found = {head.txid: head.checksum}
        for txid in txids:
            checksum = log.checksum(txid) if txid < head.txid else None
            if checksum is not None:
                found[txid] = checksum
        oldest = first - 1 if first else head.txid
        return oldest, {txid: found[txid] for txid in txids if txid in found}

    def checksums(self, database: str, pages: int) -> bytes:
        return read_page_checksums(self._layout.database(database) / "pages.sum", pages)

    def epochs(self, database: str) -> list[tuple[int, int]]:
        state = load_state(self._layout.database(database))
        return [] if state is None else state.epochs.to_list()

    def as_logged(self, database: str, page1: bytes) -> bytes:
        """Page 1 as it stands in the log: what SQLite keeps there is a replica's own.

        As of the last barrier or later; what has changed since is in the records.
        """
        state = load_state(self._layout.database(database)) if self.relays else None
        tail = bytes.fromhex(state.page1_tail) if state is not None else b""
        return with_bookkeeping(page1, tail) if len(tail) == BOOKKEEPING_BYTES else page1

    def pages(self, database: str, page_size: int) -> CommittedPages:
        """The committed pages."""
        directory = self._layout.database(database)
        return CommittedPages(
            self._layout.files / database,
            directory / CHECKSUMS_FILE,
            directory / LOG_FOLDER,
            page_size,
            open_locked=lambda: self._open(database),
            as_logged=lambda page1: self.as_logged(database, page1),
        )

    def _open(self, database: str) -> PageReader:
        """Through the mount. Raises BusyError, also while that is away."""
        path = self._open_path(database)
        if not os.path.exists(path):
            head = self.heads.get(database)
            if head is None or not head.pages:
                raise LiteMQError(f"{database} was dropped meanwhile")
            raise BusyError(f"{path} is not there yet")
        return PageReader(path, busy_timeout_s=0.0)


class Transfer:
    """What both kinds have in common: number, credit, patience."""

    def __init__(
        self, source: Source, replica: Replica, number: int, database: str, credit: int
    ) -> None:
        self._source = source
        self.replica = replica
        self.number = number
        self.database = database
        self._credit = credit
        self._touched_s = time.monotonic()
        self.finished = False
        #: SQLite was busy: come back a moment later
        self.busy = False

    @property
    def idle_s(self) -> float:
        return time.monotonic() - self._touched_s

    def grant(self, credit: int) -> None:
        self._credit += credit
        self._touched_s = time.monotonic()

    def advance(self) -> bool:
        """Send the next piece if there is credit for it; true if another may follow at once."""
        raise NotImplementedError

    def barrier_reached(self, shown: list[m.Head]) -> None:
        """The barrier this transfer asked for has been passed; `shown` is what readers saw then."""

    def refuse(self, reason: str) -> None:
        self.finished = True
        self.replica.send(m.TransferRefused(self.number, self.database, reason))

    def _send(self, message: m.Message, *payload: bytes) -> bool:
        if not self.replica.send(message, *payload):
            self.busy = True  # its queue is full
            return False
        self._credit -= sum(len(part) for part in payload)
        self._touched_s = time.monotonic()
        return True

    def _send_records(self, records: list[bytes], first_txid: int, *, last: bool) -> bool:
        head = self._source.heads[self.database]
        return self._send(
            m.RecordsChunk(
                self.number,
                self.database,
                head.position.epoch,
                self._source.epochs(self.database),
                first_txid,
                [len(record) for record in records],
                last,
            ),
            b"".join(records),
        )


class RecordTransfer(Transfer):
    """Records after a position, until the head."""

    def __init__(
        self,
        source: Source,
        replica: Replica,
        number: int,
        database: str,
        after: Position,
        credit: int,
    ) -> None:
        super().__init__(source, replica, number, database, credit)
        self._next = after.txid + 1
        self._checksum: int | None = after.checksum
        self._after = after

    def advance(self) -> bool:
        if self.finished or self._credit <= 0:
            return False
        head = self._source.heads.get(self.database)
        if head is None:
            self.refuse("no such database")
            return False
        if self._source.relays and self._checksum and self._after.txid > head.position.txid:
            self.refuse("this relay has less of it")
            return False
        position = head.position.value
        if self._checksum is not None and self._after.txid > position.txid:
            return self._need_repair("the replica is ahead of the primary")
        same_txid = self._checksum is not None and self._after.txid == position.txid
        if same_txid and self._after.checksum != position.checksum:
            return self._need_repair("the histories differ", parted=True)
        if self._next > head.position.txid:
            self.finished = self._send_records([], self._next, last=True)
            return False
        try:
            records = self._source.records(self.database, self._next, CHUNK_BYTES, MAX_RECORDS)
        except TooOldError:
            return self._need_repair("the log no longer reaches back that far")
        except CorruptRecordError as error:
            log.get().warning("the log is damaged", db=self.database, reason=str(error))
            return self._need_repair("the log is damaged")
        if self._checksum is not None and ltx.peek(records[0]).pre_checksum != self._checksum:
            return self._need_repair("the histories differ", parted=True)
        self._checksum = None
        last = self._next + len(records) > head.position.txid
        if self._send_records(records, self._next, last=last):
            self._next += len(records)
            self.finished = last
        return not self.finished and not self.busy and self._credit > 0

    def _need_repair(self, reason: str, *, parted: bool = False) -> bool:
        self.finished = True
        self.replica.send(m.RepairNeeded(self.number, self.database, reason, parted))
        return False


class RepairTransfer(Transfer):
    """The pages that differ, then the records made meanwhile."""

    def __init__(
        self,
        source: Source,
        replica: Replica,
        number: int,
        database: str,
        page_size: int,
        pages: int,
        credit: int,
    ) -> None:
        super().__init__(source, replica, number, database, credit)
        self._page_size = page_size
        head = source.heads.get(database)
        #: more than we have need not be known; nobody makes us take more memory
        self._theirs = bytearray(8 * min(pages, 0 if head is None else head.pages))
        self._wanted: array[int] | None = None
        self._sent = 0
        self._begin: m.Head | None = None
        self._end: m.Head | None = None
        self._next = 0
        #: on a relay: what its file shows at least
        self._shown: int | None = None
        self._waiting = False
        self._complete = False
        self._pages: CommittedPages | None = None
        #: those that were not found in one way, for the next
        self._left = array("L")
        self._ways: list[Way] = []

    def add_checksums(self, first_page: int, checksums: bytes, final: bool) -> None:
        """The replica's page checksums from `first_page` (1 is the first) on."""
        start = min((first_page - 1) * 8 if first_page else 0, len(self._theirs))
        known = checksums[: len(self._theirs) - start]
        self._theirs[start : start + len(known)] = known
        self._complete = self._complete or final
        self._touched_s = time.monotonic()

    def advance(self) -> bool:
        if self.finished or not self._complete or self._waiting or self._credit <= 0:
            return False
        if self._source.relays and self._shown is None:
            self._wait()
            return False
        if self._begin is None and not self._start():
            return False
        assert self._wanted is not None
        if self._sent < len(self._wanted):
            return self._send_pages()
        if self._left:
            self._look_elsewhere()
            return True
        if self._end is None:
            self._wait()
            return False
        return self._send_redo()

    def _wait(self) -> None:
        self._waiting = True
        self._source.ask_barrier(self)

    def _start(self) -> bool:
        head = self._source.heads.get(self.database)
        if head is None:
            self.refuse("no such database")
            return False
        first = head.position.txid if self._shown is None else self._shown
        if head.pages and not first:
            self.refuse("the relay has not applied it yet")
            return False
        self._begin = head
        self._next = min(first, head.position.txid) + 1
        self._wanted = self._differing(head)
        self._sent = 0
        self._pages = self._source.pages(self.database, head.page_size)
        self._left = array("L")
        self._ways = [self._pages.from_file, self._pages.from_log, self._pages.through_sqlite]
        return True

    def _look_elsewhere(self) -> None:
        """Programs find no lock of ours, as long as that is not the only way."""
        self._wanted, self._left, self._sent = self._left, array("L"), 0
        del self._ways[: 1 if len(self._wanted) <= MOST_FROM_LOG else -1]

    def _differing(self, head: m.Head) -> array[int]:
        ours = self._source.checksums(self.database, head.pages)
        theirs = bytes(self._theirs) if head.page_size == self._page_size else b""
        lock = lock_page(head.page_size) if head.page_size else 0
        wanted = array("L")
        block = 8 * 512
        for start in range(0, len(ours), block):
            if ours[start : start + block] == theirs[start : start + block]:
                continue
            for at in range(start, min(start + block, len(ours)), 8):
                number = at // 8 + 1
                if ours[at : at + 8] != theirs[at : at + 8] and number != lock:
                    wanted.append(number)
        return wanted

    def _send_pages(self) -> bool:
        assert self._wanted is not None
        assert self._begin is not None
        size = self._begin.page_size
        numbers = list(self._wanted[self._sent : self._sent + max(1, READ_BYTES // size)])
        try:
            pages = self._ways[0](numbers)
        except BusyError:
            self.busy = True
            return False
        found = [number for number in numbers if number in pages]
        if not found:
            self._count(numbers, pages)
            return True
        data = lz4.block.compress(b"".join(pages[number] for number in found), store_size=False)
        message = m.RepairPages(self.number, self.database, size, found)
        if any(len(pages[number]) != size for number in found):
            self.refuse("the page size has changed")
            return False
        if self._send(message, data):
            self._count(numbers, pages)
            self._note_sent(size, pages)
        return not self.busy and self._credit > 0

    def _count(self, numbers: list[int], found: dict[int, bytes]) -> None:
        """These have been looked for."""
        self._sent += len(numbers)
        if len(self._ways) > 1:  # else it was cut off meanwhile, and the redo knows
            self._left.extend(number for number in numbers if number not in found)

    def _note_sent(self, page_size: int, pages: dict[int, bytes]) -> None:
        """The replica has them now, should this have to begin once more."""
        if page_size != self._page_size:
            self._page_size, self._theirs = page_size, bytearray()
        last = 8 * max(pages, default=0)
        if last > len(self._theirs):
            self._theirs += bytes(last - len(self._theirs))
        for number, data in pages.items():
            known = page_checksum(number, data).to_bytes(8, "big")
            self._theirs[8 * (number - 1) : 8 * number] = known

    def barrier_reached(self, shown: list[m.Head]) -> None:
        self._waiting = False
        if self._begin is None:
            txids = [head.position.txid for head in shown if head.database == self.database]
            self._shown = txids[0] if txids else 0
            return
        self._end = self._source.heads.get(self.database)
        self._close()

    def _send_redo(self) -> bool:
        assert self._end is not None
        last = self._end.position.txid
        if self._next <= last:
            try:
                records = self._source.records(
                    self.database, self._next, CHUNK_BYTES, min(MAX_RECORDS, last - self._next + 1)
                )
            except TooOldError as error:  # what was made meanwhile is too large for it, or old
                log.get().info(
                    "repairing a replica once more", replica=self.replica.node, db=self.database,
                    reason=str(error),
                )  # fmt: skip
                self._begin = self._end = None
                self._shown = None
                return True
            if self._send_records(records, self._next, last=False):
                self._next += len(records)
            return not self.busy and self._credit > 0
        done = m.RepairDone(
            self.number, self.database, self._end, self._source.epochs(self.database)
        )
        self.finished = self._send(done)
        return False

    def refuse(self, reason: str) -> None:
        self._close()
        super().refuse(reason)

    def _close(self) -> None:
        if self._pages is not None:
            self._pages.close()
