"""Checksums of pages and of whole databases, and the file that keeps one per page.

LTX defines them: a page's checksum is CRC64-ISO over its number (4 bytes, big-endian) and its
bytes; a database's is the XOR of its pages' checksums. Bit 63 is set in both, so that 0 can mean
"none". The lock page (the one at byte 0x40000000) has none.

Always true of PageChecksums: entries beyond `n_pages` are 0, and the file has disk blocks under
every byte that is mapped (a store into a hole of a full disk would kill the process with SIGBUS
instead of raising).
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from struct import Struct

from fastcrc.crc64 import go_iso

from litemq.errors import FormatError
from litemq.txlog.durable import storage_error

CHECKSUM_FLAG = 1 << 63
EMPTY = CHECKSUM_FLAG  # checksum of a database without pages
ENTRY_SIZE = 8

_PENDING_BYTE = (
    0x40000000  # SQLite's lock bytes start here (sqlite.org/fileformat.html#the_lock_byte_page)
)
_CHUNK = 64 << 10  # the file grows in steps of this many bytes: 8,192 pages
_BLOCK = 1 << 20  # bytes handled at a time when the file is walked

_PGNO = Struct(">I")
_ENTRY = Struct(">Q")
_pack_pgno = _PGNO.pack
_pack_entry = _ENTRY.pack_into
_unpack_entry = _ENTRY.unpack_from


def page_checksum(pgno: int, data: bytes | bytearray | memoryview) -> int:
    """Checksum of one page, flag set; never 0."""
    return go_iso(data, go_iso(_pack_pgno(pgno))) | CHECKSUM_FLAG


def fold(db_checksum: int, old: int, new: int) -> int:
    """Database checksum after a page went from checksum `old` to `new`; 0 stands for a page that is
    not there.
    """
    return db_checksum ^ old ^ new | CHECKSUM_FLAG


def lock_page(page_size: int) -> int:
    """Number of the page that SQLite never writes because its lock bytes lie there."""
    return _PENDING_BYTE // page_size + 1


def xor_entries(data: bytes) -> int:
    """XOR of all 8-byte entries in `data`, without the flag being set again."""
    words = len(data) // ENTRY_SIZE
    value = int.from_bytes(data, "big")
    while words > 1:  # fold the upper half onto the lower: long integers XOR at memory speed
        half = words // 2
        value = (value >> (64 * half)) ^ (value & ((1 << (64 * half)) - 1))
        words -= half
    return value


def xor_of(entries: bytes | bytearray) -> int:
    """As `xor_entries`, of any number of them, a block at a time."""
    value = 0
    for start in range(0, len(entries), _BLOCK):
        value ^= xor_entries(bytes(entries[start : start + _BLOCK]))
    return value


class PageChecksums:
    """One 8-byte big-endian entry per page, mapped and written by a database's single writer."""

    def __init__(self, path: Path, n_pages: int) -> None:
        """Open `path`, creating it; the first `n_pages` entries count. Raises StorageError."""
        self.path = path
        self.n_pages = n_pages
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_error(error, "open", path) from error
        try:
            capacity = _round_up(max(os.fstat(self._fd).st_size, n_pages * ENTRY_SIZE))
            os.posix_fallocate(self._fd, 0, capacity)
            self._map = mmap.mmap(self._fd, capacity)
        except OSError as error:
            os.close(self._fd)
            raise storage_error(error, "map", path) from error
        self._capacity = capacity

    def get(self, pgno: int) -> int:
        """Checksum of page `pgno`, 0 if it has none or is beyond the end."""
        if not 0 < pgno <= self.n_pages:
            return 0
        entry: int = _unpack_entry(self._map, (pgno - 1) * ENTRY_SIZE)[0]
        return entry

    def set(self, pgno: int, checksum: int) -> None:
        if not 0 < pgno <= self.n_pages:
            raise IndexError(f"page {pgno} of {self.n_pages}")
        _pack_entry(self._map, (pgno - 1) * ENTRY_SIZE, checksum)

    def reserve(self, n_pages: int) -> None:
        """Make room, so that a later resize up to `n_pages` cannot fail. Raises StorageError."""
        if n_pages * ENTRY_SIZE <= self._capacity:
            return
        capacity = _round_up(n_pages * ENTRY_SIZE)
        try:
            os.posix_fallocate(self._fd, 0, capacity)
            self._map.resize(capacity)
        except OSError as error:
            raise storage_error(error, "grow", self.path) from error
        self._capacity = capacity

    def resize(self, n_pages: int) -> None:
        """Grow with empty entries, or shrink and clear what is cut. Raises StorageError, then
        nothing has changed.
        """
        self.reserve(n_pages)
        if n_pages < self.n_pages:
            self._clear(n_pages * ENTRY_SIZE, self.n_pages * ENTRY_SIZE)
        self.n_pages = n_pages

    def clear_beyond_end(self) -> None:
        """Zero what a crashed writer may have left after the last page."""
        self._clear(self.n_pages * ENTRY_SIZE, self._capacity)

    def total(self) -> int:
        """Checksum of the whole database, flag set."""
        return self.xor_range(1, self.n_pages) | CHECKSUM_FLAG

    def total_of_file(self) -> int:
        """Checksum of all that the file holds, whatever `n_pages` is; flag set."""
        value = 0
        for start in range(0, self._capacity, _BLOCK):
            value ^= xor_entries(self._map[start : min(start + _BLOCK, self._capacity)])
        return value | CHECKSUM_FLAG

    def xor_range(self, first_pgno: int, last_pgno: int) -> int:
        """XOR of the entries of these pages and all between, flag not set again."""
        value = 0
        end = min(last_pgno, self.n_pages) * ENTRY_SIZE
        for start in range((first_pgno - 1) * ENTRY_SIZE, end, _BLOCK):
            value ^= xor_entries(self._map[start : min(start + _BLOCK, end)])
        return value

    def read(self, first_pgno: int, count: int) -> bytes:
        """Entries of up to `count` pages as they stand in the file; shorter at the end of the
        database.
        """
        last = min(first_pgno - 1 + count, self.n_pages)
        return self._map[(first_pgno - 1) * ENTRY_SIZE : last * ENTRY_SIZE]

    def write(self, first_pgno: int, entries: bytes | bytearray) -> None:
        """Overwrite the entries from `first_pgno` on; they must lie within the database."""
        start = (first_pgno - 1) * ENTRY_SIZE
        end = start + len(entries)
        if start < 0 or end > self.n_pages * ENTRY_SIZE or len(entries) % ENTRY_SIZE:
            raise IndexError(f"{len(entries)} bytes from page {first_pgno} of {self.n_pages}")
        self._map[start:end] = entries

    def sync(self) -> None:
        """Raises StorageError."""
        try:
            self._map.flush()
            os.fsync(self._fd)
        except OSError as error:
            raise storage_error(error, "sync", self.path) from error

    def close(self) -> None:
        if not self._map.closed:
            self._map.close()
            os.close(self._fd)

    def _clear(self, start: int, end: int) -> None:
        for at in range(start, end, _BLOCK):
            stop = min(at + _BLOCK, end)
            self._map[at:stop] = bytes(stop - at)


def read_page_checksums(path: Path, n_pages: int) -> bytes:
    """The entries of `n_pages` pages, read by a process that is not the writer.

    The writer goes on meanwhile, so the entries are no snapshot; one that is missing reads as 0. A
    file that is not there or that cannot be read is a FormatError.
    """
    try:
        with path.open("rb") as file:
            data = file.read(n_pages * ENTRY_SIZE)
    except OSError as error:
        raise FormatError(f"cannot read page checksums {path}: {error.strerror}") from error
    return data.ljust(n_pages * ENTRY_SIZE, b"\0")


def _round_up(size: int) -> int:
    return max(1, -(-size // _CHUNK)) * _CHUNK
