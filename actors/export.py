"""A consistent copy of a database that is being written, and its history as LTX files.

Reads committed pages in small read transactions, one moment after the other, then lays the records
made meanwhile over them: pages are whole images, so the fuzzy copy becomes exact. Writers wait for
a read of a quarter of a megabyte at most. Always true: the copy appears under its name when it is
whole, is on the disk and agrees with the log's checksums.
"""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litemq.actors.client import NodeClient
from litemq.actors.history import History
from litemq.actors.layout import Layout, application_file
from litemq.config import Config
from litemq.errors import LiteMQError, StorageError
from litemq.fs.dbpage import PageReader
from litemq.fs.lock_holders import held_by
from litemq.fs.names import is_database_name
from litemq.fs.sqlite_errors import BusyError
from litemq.transport import messages as m
from litemq.txlog import archive, ltx
from litemq.txlog.checksums import EMPTY, lock_page, page_checksum
from litemq.txlog.durable import storage_error, sync_directory
from litemq.txlog.ltx import Header
from litemq.txlog.position import Position
from litemq.txlog.segment_reader import TooOldError

#: called with pages done and pages in all
Progress = Callable[[int, int], None]

READ_BYTES = 256 * 1024
BUSY_PATIENCE_S = 30.0
BUSY_RETRY_S = 0.01
ATTEMPTS = 5
SNAPSHOT_LEVEL = "9"
_COMPANIONS = ("-journal", "-wal", "-shm")


class _MovedAwayError(Exception):
    """The database was repaired, dropped or shortened under the copy: begin again."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the state, and how large it is."""

    position: Position
    page_size: int
    pages: int


def export_database(
    config: Config, client: NodeClient, name: str, path: Path, progress: Progress
) -> Exported:
    """Copy the database to the file `path`, replacing what is there. Raises LiteMQError."""
    check_name(name)
    path = path.absolute()
    if path.is_dir():
        path = path / name
    if path.parent.resolve() == config.mount.path.parent.resolve() / config.mount.path.name:
        raise LiteMQError(f"{path} is in the node's own mount; `litemq import` writes there")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.exporting")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            exported = _copy_patiently(config, client, name, fd, progress)
            os.fsync(fd)
        finally:
            os.close(fd)
        for suffix in _COMPANIONS:
            # of a database that stood here before: SQLite would take them for the new one's
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{suffix}")
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, "export to", path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return exported


def export_history(
    config: Config, client: NodeClient, name: str, directory: Path, progress: Progress
) -> tuple[int, Position]:
    """Write the log as LTX files below `directory`; how many, and where they end.

    One file per transaction when the log reaches back to the first; otherwise one snapshot of the
    database as it is.
    """
    check_name(name)
    if (directory / "ltx").exists():
        raise LiteMQError(f"{directory}/ltx is there already; name an empty directory")
    head = _head(client, name)
    history = History(Layout(config.node.data_dir), name)
    if history.first_txid() == 1 and _is_plain(history, head):
        txid = head.position.txid
        count = archive.export_ltx(history.raw(1, txid), directory)
        return count, head.position.value
    return 1, _export_snapshot(config, client, name, directory, progress)


def check_name(name: str) -> None:
    """Raises LiteMQError unless a database can be called so."""
    if not is_database_name(name):
        raise LiteMQError(f"{name!r} can't be the name of a database")


def _head(client: NodeClient, name: str) -> m.Head:
    head = client.head(name)
    if head is None or not head.pages:
        raise LiteMQError(f"there is no database {name} on this node")
    return head


def _is_plain(history: History, head: m.Head) -> bool:
    """Whether every record can stand as a file of its own: no drop, one page size."""
    for record in history.raw(1, head.position.txid):
        header = ltx.peek(record)
        if not header.commit or header.page_size != head.page_size:
            return False
    return True


def _export_snapshot(
    config: Config, client: NodeClient, name: str, directory: Path, progress: Progress
) -> Position:
    target = directory / "ltx" / SNAPSHOT_LEVEL
    temporary = directory / f".{name}.{os.getpid()}.exporting"
    try:
        target.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            exported = _copy_patiently(config, client, name, fd, progress)
            record = _snapshot_record(fd, exported)
        finally:
            os.close(fd)
        file_name = f"{1:016x}-{exported.position.txid:016x}.ltx"
        partial = target / f".{file_name}.tmp"
        with partial.open("wb") as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target / file_name)
        sync_directory(target)
    except OSError as error:
        raise storage_error(error, "export to", target) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return exported.position


def _snapshot_record(fd: int, exported: Exported) -> bytes:
    size, lock = exported.page_size, lock_page(exported.page_size)
    pages = [
        (number, os.pread(fd, size, (number - 1) * size).ljust(size, b"\0"))
        for number in range(1, exported.pages + 1)
        if number != lock
    ]
    total = EMPTY
    for number, data in pages:
        total ^= page_checksum(number, data) & ~EMPTY
    header = Header(
        page_size=size,
        commit=exported.pages,
        min_txid=1,
        max_txid=exported.position.txid,
        timestamp_ms=time.time_ns() // 1_000_000,
        pre_checksum=0,
    )
    return ltx.without_database_checksums(ltx.encode(header, pages, total))


def _copy_patiently(
    config: Config, client: NodeClient, name: str, fd: int, progress: Progress
) -> Exported:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.1 * attempt)
        try:
            os.ftruncate(fd, 0)
            return _Copy(config, client, name, fd, progress).run()
        except (_MovedAwayError, TooOldError) as error:
            reason = str(error)
    raise LiteMQError(f"can't copy {name}: {reason}")


class _Copy:
    """One attempt at a consistent copy."""

    def __init__(
        self, config: Config, client: NodeClient, name: str, fd: int, progress: Progress
    ) -> None:
        self._client = client
        self._name = name
        self._path = application_file(config, name)
        self._primary = client.is_primary
        self._fd = fd
        self._progress = progress
        self._history = History(Layout(config.node.data_dir), name)

    def run(self) -> Exported:
        begin = _head(self._client, self._name)
        # the log's, from after `begin`: whatever they are newer than that is redone below
        known = self._history.checksums(begin.pages)
        found = self._copy_pages(begin)
        end = self._client.head(self._name)
        if end is None or not end.pages:
            raise LiteMQError(f"{self._name} has just been dropped")
        redone = self._redo(begin, end)
        self._check(begin, end, known, found, redone)
        os.ftruncate(self._fd, end.pages * end.page_size)
        self._progress(end.pages, end.pages)
        return Exported(end.position.value, end.page_size, end.pages)

    def _copy_pages(self, begin: m.Head) -> array[int]:
        """Write the pages as they are now; their checksums, 0 for those that are gone."""
        size = begin.page_size
        found = array("Q", bytes(8 * begin.pages))
        step = max(1, READ_BYTES // size)
        try:
            with PageReader(str(self._path), busy_timeout_s=1.0) as reader:
                for first in range(1, begin.pages + 1, step):
                    pages = _read(reader, range(first, min(first + step, begin.pages + 1)))
                    if any(len(data) != size for data in pages.values()):
                        break  # another page size by now: its record holds every page
                    for number, data in pages.items():
                        os.pwrite(self._fd, data, (number - 1) * size)
                        found[number - 1] = page_checksum(number, data)
                    self._progress(first - 1, begin.pages)
        except StorageError as error:
            raise _MovedAwayError(str(error)) from error
        return found

    def _redo(self, begin: m.Head, end: m.Head) -> set[int] | None:
        """Lay the records made meanwhile over the copy; the pages they hold, None for all."""
        if end.position.txid < begin.position.txid:
            raise _MovedAwayError("the replica was set back to an earlier state")
        redone: set[int] | None = set()
        page_size, checksum = begin.page_size, begin.position.checksum
        for transaction in self._history.transactions(begin.position.txid + 1, end.position.txid):
            header = transaction.header
            if f"{header.pre_checksum:016x}" != checksum:
                raise _MovedAwayError("the replica was repaired")
            if not header.commit or header.page_size != page_size:
                os.ftruncate(self._fd, 0)
                redone = None
                page_size = header.page_size
            archive.apply_record(transaction, self._fd)
            if redone is not None:
                redone.update(number for number, _ in transaction.pages)
            checksum = f"{transaction.post_checksum:016x}"
        if checksum != end.position.checksum:
            raise _MovedAwayError("the replica was repaired")
        return redone

    def _check(
        self, begin: m.Head, end: m.Head, known: bytes, found: array[int], redone: set[int] | None
    ) -> None:
        """Every page that no record brought must be what the log says; records were verified as
        they were read.
        """
        if redone is None:
            return
        if not self._primary:
            # its checksums are those of the log, which may be ahead of what readers see
            last = self._history.last_txid()
            for transaction in self._history.transactions(end.position.txid + 1, last):
                redone.update(number for number, _ in transaction.pages)
        lock = lock_page(begin.page_size)
        wrong = []
        # page 1 of a replica holds SQLite's own counters
        for number in range(1 if self._primary else 2, min(begin.pages, end.pages) + 1):
            logged = int.from_bytes(known[(number - 1) * 8 : number * 8], "big")
            # 0 in the log: SQLite never wrote the page
            if logged and logged != found[number - 1] and number not in redone and number != lock:
                wrong.append(number)
        if wrong:
            raise _MovedAwayError(
                f"{len(wrong)} pages are not what the log says, page {wrong[0]} first; "
                "see `litemq verify`"
            )


def _read(reader: PageReader, numbers: range) -> dict[int, bytes]:
    deadline_s = time.monotonic() + BUSY_PATIENCE_S
    while True:
        try:
            return reader.read(numbers)
        except BusyError as error:
            if time.monotonic() > deadline_s:
                raise BusyError(f"{error}{held_by(reader.path)}") from error
            time.sleep(BUSY_RETRY_S)
