"""Comparing a database, page by page and as SQLite shows it, with the checksums of the log.

Never writes and takes no lock that a writer would wait for longer than one small read. While the
database is being written, a page and its checksum can't be read at one moment; so a page that
differs is read again between two barriers and must then be one of those that the log knows from
that span. Always true: a page that is reported was not what the log says at any of many looks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from litemq.actors import file_image
from litemq.actors.client import NodeClient
from litemq.actors.history import History
from litemq.actors.layout import Layout, application_file
from litemq.config import Config
from litemq.errors import FormatError, LiteMQError, NotADatabaseError, StorageError
from litemq.fs.btree import free_pages
from litemq.fs.dbpage import PageReader
from litemq.fs.lock_holders import held_by
from litemq.fs.pages import bookkeeping, with_bookkeeping
from litemq.fs.sqlite_errors import BusyError
from litemq.transport import messages as m
from litemq.txlog.checksums import lock_page, page_checksum
from litemq.txlog.ltx import post_checksum_of
from litemq.txlog.segment_reader import TooOldError

#: called with pages done and pages in all
Progress = Callable[[int, int], None]

READ_BYTES = 256 * 1024
LOOKS = 20
PAUSE_S = 0.1
#: records before the first barrier in which the newest checksum of a page is looked for
WINDOW = 512
BUSY_PATIENCE_S = 30.0
BUSY_RETRY_S = 0.01
_MODES = (b"\x01\x01", b"\x02\x02")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one database; `pages` differ from the log, `problem` is other trouble."""

    name: str
    txid: int
    n_pages: int
    pages: list[int]
    problem: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        return not self.pages and not self.problem


def verify(
    config: Config, client: NodeClient, name: str | None, progress: Callable[[str], Progress]
) -> Iterable[Verdict]:
    """Verdicts on one database, or on all. Raises LiteMQError when there is no such database."""
    names = [head.database for head in client.barrier(name or "").heads if head.pages]
    if name is not None and not names:
        raise LiteMQError(f"there is no database {name} on this node")
    for each in sorted(names):
        yield _Verification(config, client, each, progress(each)).run()


@dataclass(slots=True)
class _Look:
    """What a page may be, between two barriers."""

    #: from before the span: the log's checksums when the looks were taken
    before: set[int] = field(default_factory=set)
    #: the newest in the records up to the first barrier; it rules out `before`
    last: int | None = None
    #: from the records of the span
    later: set[int] = field(default_factory=set)

    def allows(self, checksums: set[int], *, unused: bool) -> bool:
        """`unused`: the page is zeros, or free. The log knows no checksum of one that was never
        written, and that is the only other page of which it need not know any.
        """
        known = self.later | ({self.last} if self.last is not None else self.before)
        return bool(known & checksums) or (unused and self.last is None and 0 in self.before)


class _Verification:
    """One database."""

    def __init__(self, config: Config, client: NodeClient, name: str, progress: Progress) -> None:
        self._client = client
        self._name = name
        self._path = str(application_file(config, name))
        self._replica = not client.is_primary
        self._history = History(Layout(config.node.data_dir), name)
        self._progress = progress

    def run(self) -> Verdict:
        head = self._head()
        if head is None:
            return Verdict(self._name, 0, 0, [], note="dropped meanwhile")
        try:
            file_image.forget_cached(self._path)
            suspects = self._first_pass(head)
            for look in range(LOOKS):
                if not suspects:
                    break
                if look:
                    time.sleep(PAUSE_S)
                suspects = self._look_again(suspects)
        except NotADatabaseError as error:
            return self._verdict([], problem=f"SQLite can't read it: {error}")
        except StorageError as error:
            return self._verdict([], problem=f"can't be read: {error}")
        return self._verdict(sorted(suspects))

    def _head(self) -> m.Head | None:
        head = self._client.head(self._name)
        return head if head is not None and head.pages else None

    def _verdict(self, pages: list[int], problem: str = "") -> Verdict:
        note = ""
        reached = self._client.barrier(self._name)
        if not reached.heads or not reached.heads[0].pages:
            return Verdict(self._name, 0, 0, [], note="dropped meanwhile")
        head = reached.heads[0]
        if self._replica and not problem:
            problem, note = self._compare_with_primary(head, reached.primary)
        self._progress(head.pages, head.pages)
        return Verdict(self._name, head.position.txid, head.pages, pages, problem, note)

    # --- pages

    def _sums(self, numbers: Iterable[int], pages: int) -> dict[int, int]:
        raw = self._history.checksums(pages)
        return {
            number: int.from_bytes(raw[(number - 1) * 8 : number * 8], "big") for number in numbers
        }

    def _first_pass(self, head: m.Head) -> set[int]:
        """Every page once; those that seem to differ."""
        suspects: set[int] = set()
        lock = lock_page(head.page_size)
        step = max(1, READ_BYTES // head.page_size)
        with PageReader(self._path, busy_timeout_s=1.0) as reader:
            for first in range(1, head.pages + 1, step):
                numbers = range(first, min(first + step, head.pages + 1))
                found = _read(reader, numbers)
                for number, known in self._sums(numbers, head.pages).items():
                    data = found.get(number)
                    if number == lock or (not known and _is_zeros(data)):
                        continue
                    if data is None or page_checksum(number, data) != known:
                        suspects.add(number)
                self._progress(first - 1, head.pages)
            if _read(reader, range(head.pages + 1, head.pages + 2)):
                suspects.add(head.pages + 1)  # it may have grown
        return suspects

    def _look_again(self, suspects: set[int]) -> set[int]:
        """Read these pages between two barriers; those that are nothing the log knows of."""
        step = max(1, READ_BYTES // 4096)
        numbers = sorted(suspects)
        left: set[int] = set()
        for at in range(0, len(numbers), step):
            left |= self._look_at(numbers[at : at + step])
        return left

    def _look_at(self, numbers: list[int]) -> set[int]:
        highest = numbers[-1]
        before = self._sums(numbers, highest)
        begin = self._head()
        now = self._sums(numbers, highest)
        tails = self._tails()
        with PageReader(self._path, busy_timeout_s=1.0) as reader:
            found = _read(reader, numbers)
            free = _free(reader) if 0 in before.values() or 0 in now.values() else set()
        end = self._head()
        if begin is None or end is None or begin.page_size != end.page_size:
            return set(numbers)  # another database by now: look once more
        looks = {number: _Look({before[number], now[number]}) for number in numbers}
        sizes = {begin.pages, end.pages}
        held = self._history.first_txid()  # 0: none yet, since a repair
        first = begin.position.txid + 1
        if held:
            first = min(first, max(held, begin.position.txid - WINDOW + 1))
        try:
            for transaction in self._history.transactions(first, end.position.txid):
                header = transaction.header
                inside = header.max_txid > begin.position.txid
                if inside:
                    sizes.add(header.commit)
                else:
                    for number, look in looks.items():
                        if number > header.commit:
                            look.last = None  # cut off, or dropped with the database
                for number, image in transaction.pages:
                    if number == 1:
                        tails.add(bookkeeping(image))
                    if number not in looks:
                        continue
                    checksum = page_checksum(number, image)
                    if inside:
                        looks[number].later.add(checksum)
                    else:
                        looks[number].last = checksum
        except TooOldError:
            return set(numbers)
        tails |= self._tails()
        wrong = set()
        for number, look in looks.items():
            data = found.get(number)
            if number > min(sizes) and (data is None or number > max(sizes)):
                # beyond the end: absent, as it should be, or too long
                if data is not None:
                    wrong.add(number)
            elif data is None or not look.allows(
                self._forms(number, data, tails), unused=number in free or _is_zeros(data)
            ):
                wrong.add(number)
        return wrong

    def _tails(self) -> set[bytes]:
        """Bookkeeping bytes of page 1 in the log, as far as the applier has saved them."""
        if not self._replica:
            return set()
        with contextlib.suppress(FormatError):
            tail = bytes.fromhex(self._history.state().page1_tail)
            return {tail} if tail else set()
        return set()

    def _forms(self, number: int, data: bytes, tails: set[bytes]) -> set[int]:
        """Checksums of the page; of page 1 on a replica with the primary's bytes in place of
        SQLite's own.
        """
        if number != 1 or not self._replica:
            return {page_checksum(number, data)}
        forms = set()
        for mode in _MODES:
            page = data[:18] + mode + data[20:]
            forms |= {page_checksum(1, with_bookkeeping(page, tail)) for tail in tails}
        return forms

    # --- the primary's word

    def _compare_with_primary(self, head: m.Head, primary: list[m.Head]) -> tuple[str, str]:
        """A problem, or a note: whether the primary has the same checksum at the same TXID."""
        theirs = next((each for each in primary if each.database == self._name), None)
        if theirs is None:
            return "", "the primary has not been heard, so it was not compared"
        position = theirs.position
        if position.txid > head.position.txid:
            behind = position.txid - head.position.txid
            return "", f"{behind} transactions behind the primary"
        ours = head.position.checksum
        if position.txid < head.position.txid:
            try:
                record = next(iter(self._history.raw(position.txid, position.txid)))
            except TooOldError:
                return "", ""
            ours = f"{post_checksum_of(record):016x}"
        if ours != position.checksum:
            return (
                f"differs from the primary at TXID {position.txid}: checksum {ours} here, "
                f"{position.checksum} there"
            ), ""
        return "", "same as the primary"


def _is_zeros(data: bytes | None) -> bool:
    return data is not None and not data.strip(b"\0")


def _free(reader: PageReader) -> set[int]:
    """The pages that no table and no index uses."""
    return free_pages(lambda number: _read(reader, [number]).get(number))


def _read(reader: PageReader, numbers: Iterable[int]) -> dict[int, bytes]:
    wanted = list(numbers)
    deadline_s = time.monotonic() + BUSY_PATIENCE_S
    while True:
        try:
            return reader.read(wanted)
        except BusyError as error:
            if time.monotonic() > deadline_s:
                raise BusyError(f"{error}{held_by(reader.path)}") from error
            time.sleep(BUSY_RETRY_S)
