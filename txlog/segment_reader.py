"""Reads a log while its writer appends to it, from any process, holding no lock and caching
nothing.

Checks structure, never decodes pages. Always true: what it returns are whole records of successive
TXIDs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from struct import error as struct_error

from litemq.errors import CorruptRecordError, FormatError, LiteMQError
from litemq.txlog import ltx
from litemq.txlog.durable import storage_error
from litemq.txlog.ids import Txid
from litemq.txlog.segment_files import ENTRY_SIZE, index_path, list_segments

_READ_BYTES = 256 << 10
#: records read at once, from the newest backwards
WINDOW = 256
WINDOW_BYTES = 64 * 1024 * 1024
_unpack_entry = Struct(">Q").unpack


class TooOldError(LiteMQError, LookupError):
    """The log no longer holds that TXID; the newer ones alone cannot bring a replica up to date."""


class SegmentReader:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def range(self) -> tuple[Txid, Txid]:
        """First and last TXID held, (0, 0) if there is none."""
        segments = self._list()
        for first, path in reversed(segments):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                entries = _index_entries(path)
                offset, txid = _start(fd, path, first, first + entries)
                for record in _walk(fd, path, offset, txid, _READ_BYTES):
                    txid += 1
                    del record
            finally:
                os.close(fd)
            if txid > first:
                return segments[0][0], txid - 1
        return 0, 0

    def read(self, from_txid: Txid, max_bytes: int, max_records: int = 4096) -> list[bytes]:
        """Records from `from_txid` on, of one segment; [] if it is not written yet.

        They add up to at most `max_bytes`, except that the first one always comes. Raises
        TooOldError, and CorruptRecordError where the bytes are no record.
        """
        segments = self._list()
        for number in range(len(segments) - 1, -1, -1):
            first, path = segments[number]
            if first <= from_txid:
                is_last = number == len(segments) - 1
                break
        else:
            if not segments:
                return []
            raise TooOldError(f"the log starts with TXID {segments[0][0]}, after {from_txid}")
        # asked before the read: what the index (or a later segment) promised by then must be there
        promised = not is_last or from_txid < first + _index_entries(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise TooOldError(f"TXID {from_txid} has just been dropped from the log") from error
        try:
            records = _collect(fd, path, first, from_txid, max_bytes, max_records)
        except OSError as error:
            raise storage_error(error, "read", path) from error
        finally:
            os.close(fd)
        if promised and not records:
            if not path.exists():
                raise TooOldError(f"TXID {from_txid} has just been dropped from the log")
            raise CorruptRecordError(path, path.stat().st_size, f"no whole TXID {from_txid}")
        return records

    def newest_first(self) -> Iterator[bytes]:
        """All records, backwards, as of now. Raises as `read` does."""
        first, end = self.range()
        while first and end >= first:
            begin = max(end - WINDOW + 1, first)
            records: list[bytes] = []
            while begin + len(records) <= end:
                records += self.read(
                    begin + len(records), WINDOW_BYTES, end + 1 - begin - len(records)
                )
            yield from reversed(records)
            end = begin - 1

    def checksum(self, txid: Txid) -> int | None:
        """Of the database after that transaction, if a record here tells. Raises StorageError,
        CorruptRecordError.
        """
        record = self._first(txid)
        if record is not None:
            return ltx.post_checksum_of(record)
        record = self._first(txid + 1)
        return None if record is None else ltx.peek(record).pre_checksum

    def _first(self, txid: Txid) -> bytes | None:
        try:
            records = self.read(txid, 1, 1)
        except TooOldError:
            return None
        return records[0] if records else None

    def _list(self) -> list[tuple[Txid, Path]]:
        try:
            return list_segments(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(error, "list", self.directory) from error


def _collect(
    fd: int, path: Path, first: Txid, from_txid: Txid, max_bytes: int, max_records: int
) -> list[bytes]:
    offset, txid = _start(fd, path, first, from_txid)
    records: list[bytes] = []
    total = 0
    chunk = _READ_BYTES if txid < from_txid else max(ltx.HEADER_SIZE, max_bytes)
    for record in _walk(fd, path, offset, txid, chunk):
        if txid >= from_txid:
            total += len(record)
            if records and total > max_bytes:
                break
            records.append(record)
            if len(records) >= max_records or total >= max_bytes:
                break
        txid += 1
    return records


def _start(fd: int, path: Path, first: Txid, txid: Txid) -> tuple[int, Txid]:
    """The closest place at or before `txid` where a record starts (offset, its TXID): the index's
    word, if it holds.
    """
    number = min(txid - first, _index_entries(path))
    if number:
        try:
            with index_path(path).open("rb") as index:
                index.seek((number - 1) * ENTRY_SIZE)
                (offset,) = _unpack_entry(index.read(ENTRY_SIZE))
            # a record must start there, or the segment end there, after records that the index
            # counts
            size = os.fstat(fd).st_size
            if offset == size:
                return offset, first + number
            if offset < size:
                header = ltx.peek(os.pread(fd, ltx.HEADER_SIZE, offset))
                if header.min_txid == first + number:
                    return offset, first + number
        except (OSError, FormatError, struct_error):
            pass  # the index is a cache: without it, walk
    return 0, first


def _index_entries(path: Path) -> int:
    try:
        return index_path(path).stat().st_size // ENTRY_SIZE
    except OSError:
        return 0


def _walk(fd: int, path: Path, offset: int, txid: Txid, chunk: int) -> Iterator[bytes]:
    """Whole records from `offset` on, which must carry `txid` and its successors, up to the end of
    the file.
    """
    buffer = b""
    at = 0  # in the buffer, which begins at `offset` in the file
    while True:
        try:
            length = ltx.measure(buffer, at)
            if ltx.peek(buffer, at).min_txid != txid:
                raise CorruptRecordError(path, offset + at, f"is not TXID {txid}")
        except ltx.TruncatedError:
            rest = buffer[at:]
            more = os.pread(fd, max(chunk, len(rest)), offset + len(buffer))
            if not more:
                return
            buffer, offset, at = rest + more, offset + at, 0
            continue
        except CorruptRecordError:
            raise
        except FormatError as error:
            raise CorruptRecordError(path, offset + at, str(error)) from error
        yield buffer[at : at + length]
        at += length
        txid += 1
