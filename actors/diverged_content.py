"""What the transactions of a divergence did: tables and rows, files for other tools, the database.

Pages come from the kept log, then from the kept database file and the node's present one; a page of
a file counts only if it has the checksum that the kept log ends with. Never writes to any of them.
Always true: a row count that is given is exact, and a database that is written has the checksum
that the log names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from litemq.actors import divergence
from litemq.actors.divergence import Divergence
from litemq.actors.table_changes import State, TableChange, compare, trees_of
from litemq.errors import LiteMQError
from litemq.txlog import archive, ltx
from litemq.txlog.checksums import EMPTY, lock_page, page_checksum
from litemq.txlog.durable import storage_error, sync_directory
from litemq.txlog.ltx import Header, Transaction

#: called with transactions done and transactions in all
Progress = Callable[[int, int], None]

SNAPSHOT_LEVEL = "9"


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction. Of its `pages`, `idle` ones hold no row (the header, free pages), and
    `unknown` ones belong to a table that can't be told.
    """

    txid: int
    epoch: int
    timestamp_ms: int
    pages: int
    tables: list[TableChange]
    idle: int
    unknown: int
    dropped: bool


class Content:
    """One entry, replayed."""

    def __init__(self, entry: Divergence, live: Path) -> None:
        """`live` is the file that the database has now, if it has one."""
        self._entry = entry
        self._sources = [entry.directory / divergence.DATABASE, live]
        self._progress: Progress = lambda _done, _total: None
        self.first = max(entry.from_txid, entry.first_txid)
        #: whether the database before the first transaction is known to its last page
        self.whole = False

    def on_progress(self, progress: Progress) -> None:
        """Call it now and then."""
        self._progress = progress

    def changes(self) -> Iterator[Change]:
        """Every transaction that diverged, oldest first. Raises FormatError, StorageError."""
        entry, table = self._entry, self._entry.table
        with tempfile.TemporaryFile() as file:
            state = self._before(file.fileno())
            trees = trees_of(state)
            for done, transaction in enumerate(self._transactions(self.first, entry.last_txid)):
                self._progress(done, self._entry.transactions)
                change, trees = compare(state, trees, transaction)
                yield Change(
                    transaction.header.max_txid,
                    table.at(transaction.header.max_txid),
                    transaction.header.timestamp_ms,
                    len(transaction.pages),
                    *change,
                    dropped=not transaction.header.commit,
                )

    def write_ltx(self, directory: Path) -> tuple[int, bool]:
        """Write LTX files below `directory`; how many, and whether a database can be made of them.

        Everything from TXID 1 on if the log has it; otherwise what diverged, after a snapshot of
        what was before if that is known.
        """
        if (directory / "ltx").exists():
            raise LiteMQError(f"{directory}/ltx is there already; name an empty directory")
        entry = self._entry
        if not entry.last_txid:
            raise LiteMQError(
                f"no transactions of {entry.id} were kept, only the state; use --database"
            )
        if entry.first_txid == 1 and self._is_plain(1):
            records = divergence.records(entry, 1, entry.last_txid)
            return archive.export_ltx(records, directory), True
        count = 0
        with tempfile.TemporaryFile() as file:
            state = self._before(file.fileno())
            plain = self._is_plain(self.first)
            if self.whole and state.commit and plain:
                _write_snapshot(state, directory)
                count = 1
        records = divergence.records(entry, self.first, entry.last_txid)
        return count + archive.export_ltx(records, directory), count > 0

    def write_database(self, path: Path) -> int:
        """Write the database as it was at the end; its size in pages. Raises LiteMQError."""
        entry = self._entry
        partial = path.with_name(f".{path.name}.{os.getpid()}.exporting")
        try:
            fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                state = self._at_end(fd)
                if not state.commit:
                    raise LiteMQError(
                        f"{entry.database} had been dropped at TXID {entry.head.txid}"
                    )
                if not state.is_whole(entry.head.checksum):
                    missing = state.commit - len(state.known)
                    raise LiteMQError(
                        f"{missing} of the {state.commit} pages of {entry.database} at TXID "
                        f"{entry.head.txid} are not known; its transactions can be exported"
                    )
                os.ftruncate(fd, state.commit * state.page_size)
                os.fsync(fd)
            finally:
                os.close(fd)
            partial.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            raise storage_error(error, "export to", path) from error
        finally:
            partial.unlink(missing_ok=True)
        return state.commit

    # --- replay

    def _transactions(self, first: int, last: int) -> Iterator[Transaction]:
        return map(ltx.decode, divergence.records(self._entry, first, last))

    def _is_plain(self, first: int) -> bool:
        """Whether every record from `first` on can stand as a file of its own."""
        entry = self._entry
        headers = map(ltx.peek, divergence.records(entry, first, entry.last_txid))
        return all(each.commit and each.page_size == entry.page_size for each in headers)

    def _before(self, fd: int) -> State:
        """The state before the first transaction that diverged."""
        entry = self._entry
        state = State(fd)
        if not entry.last_txid:
            return state
        for transaction in self._transactions(entry.first_txid, self.first - 1):
            state.apply(transaction)
        later: set[int] = set()
        first: Header | None = None
        restarts = False
        for transaction in self._transactions(self.first, entry.last_txid):
            first = first or transaction.header
            restarts = restarts or transaction.header.page_size != first.page_size
            later.update(number for number, _ in transaction.pages)
        assert first is not None
        if not state.txid:
            state.page_size, state.commit = first.page_size, first.commit
            state.txid = self.first - 1
            if not state.txid:
                state.commit = 0
        if not restarts and state.page_size == entry.page_size:
            self._fill(state, later)
        self.whole = state.is_whole(first.pre_checksum)
        if self.whole and state.known:
            state.commit = max(state.known)
        return state

    def _at_end(self, fd: int) -> State:
        entry = self._entry
        state = State(fd)
        for transaction in self._transactions(entry.first_txid, entry.last_txid):
            state.apply(transaction)
            self._progress(transaction.header.max_txid - entry.first_txid, self._entry.transactions)
        state.page_size, state.commit = entry.page_size, entry.pages
        self._fill(state, set())
        return state

    def _fill(self, state: State, later: set[int]) -> None:
        """Take pages that the log lacks from files, if they are as they were at its end.

        Those in `later` were something else before.
        """
        sums = (self._entry.directory / divergence.CHECKSUMS).read_bytes()
        lock, size = lock_page(state.page_size), state.page_size
        missing = [
            number
            for number in range(1, min(state.commit, len(sums) // 8) + 1)
            if number not in state.known and number not in later and number != lock
        ]
        for path in self._sources:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                for number in missing:
                    wanted = int.from_bytes(sums[(number - 1) * 8 : number * 8], "big")
                    if not wanted:
                        state.known[number] = 0
                        continue
                    data = os.pread(fd, size, (number - 1) * size)
                    if len(data) == size and page_checksum(number, data) == wanted:
                        state.put(number, data)
            finally:
                os.close(fd)
            missing = [number for number in missing if number not in state.known]


def _write_snapshot(state: State, directory: Path) -> None:
    pages = []
    for number in sorted(state.known):
        data = state.page(number)
        assert data is not None
        pages.append((number, data))
    total = EMPTY
    for number, data in pages:
        total ^= page_checksum(number, data) & ~EMPTY
    header = Header(state.page_size, state.commit, 1, state.txid, 0, 0)
    record = ltx.without_database_checksums(ltx.encode(header, pages, total))
    target = directory / "ltx" / SNAPSHOT_LEVEL
    try:
        target.mkdir(parents=True, exist_ok=True)
        partial = target / ".snapshot.tmp"
        with partial.open("wb") as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target / f"{1:016x}-{state.txid:016x}.ltx")
        sync_directory(target)
    except OSError as error:
        raise storage_error(error, "export to", target) from error
