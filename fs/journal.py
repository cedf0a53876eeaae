"""Reader of SQLite's rollback journal: whether it counts, and what it would put back.

Owns: its byte format. Never writes, never opens a file: callers bring the bytes.
Always true: a journal ends a transaction by disappearing, by having length 0, or by a header of
zeros; anything else is a transaction under way, or one to be rolled back (a hot journal).

Source: https://www.sqlite.org/fileformat2.html#the_rollback_journal
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from litemq.errors import FormatError
from litemq.fs.pages import is_page_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER_BYTES = 28
MAGIC = bytes.fromhex("d9d505f920a163d7")
_HEADER = Struct(">8sIIIII")
_U32 = Struct(">I")
_MIN_SECTOR, _MAX_SECTOR = 32, 65536
_UNCOUNTED = 0xFFFFFFFF
_CHECKSUM_STEP_BYTES = 200


@dataclass(frozen=True, slots=True)
class JournalHeader:
    n_records: int | None
    """In this segment; None if SQLite did not count them: then to the end of the file."""
    nonce: int
    initial_pages: int
    """Size of the database before the transaction."""
    sector_size: int
    """The header takes up this many bytes, and segments start at multiples of it."""
    page_size: int


def is_header_zeroed(head: bytes) -> bool:
    """journal_mode=PERSIST ends a transaction so. `head`: the file's first 28 bytes or fewer."""
    return not any(head[:HEADER_BYTES])


def is_active(head: bytes) -> bool:
    """Whether these first bytes stand for a transaction that has not ended.

    SQLite's own test for a hot journal looks at the first byte alone. Whether it is hot depends on
    the RESERVED lock, too: see locks.writer_active.
    """
    return head[:1] not in (b"", b"\0")


def parse_header(data: bytes) -> JournalHeader:
    """The first 28 bytes of a segment. Raises FormatError."""
    if len(data) < HEADER_BYTES:
        raise FormatError(f"{len(data)} bytes are too few for a journal header of 28")
    magic, n_records, nonce, initial_pages, sector_size, page_size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("not a rollback journal: the magic number is another one")
    if not is_page_size(page_size):
        raise FormatError(f"{page_size} in a journal header is no page size")
    if not _MIN_SECTOR <= sector_size <= _MAX_SECTOR or sector_size & (sector_size - 1):
        raise FormatError(f"{sector_size} in a journal header is no sector size")
    return JournalHeader(
        None if n_records == _UNCOUNTED else n_records,
        nonce,
        initial_pages,
        sector_size,
        page_size,
    )


@dataclass(frozen=True, slots=True)
class Segment:
    header: JournalHeader
    offset: int
    """Of its header in the file."""
    n_records: int
    """Whole records that it can hold, as far as the file reaches; not yet verified."""

    @property
    def records_offset(self) -> int:
        return self.offset + self.header.sector_size

    @property
    def record_bytes(self) -> int:
        return _U32.size + self.header.page_size + _U32.size


def segments(read: Callable[[int, int], bytes], file_bytes: int) -> Iterator[Segment]:
    """The segments of a journal of `file_bytes`; ends at the first thing that is no header.

    Page and sector size of the first hold for all. A last segment that counts 0 records was not
    synced yet (or never is): like SQLite, take what the file holds.
    """
    offset = 0
    first: JournalHeader | None = None
    while offset + HEADER_BYTES <= file_bytes:
        try:
            header = parse_header(read(offset, HEADER_BYTES))
        except FormatError:
            return
        if first is None:
            first = header
        elif (header.page_size, header.sector_size) != (first.page_size, first.sector_size):
            return
        segment = Segment(header, offset, 0)
        fit = max(0, file_bytes - segment.records_offset) // segment.record_bytes
        count = fit if not header.n_records else min(fit, header.n_records)
        segment = Segment(header, offset, count)
        yield segment
        end = segment.records_offset + count * segment.record_bytes
        offset = -(-end // header.sector_size) * header.sector_size


def records(read: Callable[[int, int], bytes], segment: Segment) -> Iterator[tuple[int, bytes]]:
    """Page number and old image of each record, up to the first whose checksum is wrong.

    The checksum is SQLite's: it samples every 200th byte, so it finds torn records, not all damage.
    """
    page_size = segment.header.page_size
    for index in range(segment.n_records):
        record = read(segment.records_offset + index * segment.record_bytes, segment.record_bytes)
        if len(record) < segment.record_bytes:
            return
        (pgno,) = _U32.unpack_from(record, 0)
        data = record[_U32.size : _U32.size + page_size]
        (stored,) = _U32.unpack_from(record, _U32.size + page_size)
        if not pgno or stored != record_checksum(data, segment.header.nonce):
            return
        yield pgno, data


def record_checksum(data: bytes, nonce: int) -> int:
    sampled = data[len(data) - _CHECKSUM_STEP_BYTES : 0 : -_CHECKSUM_STEP_BYTES]
    return (nonce + sum(sampled)) & 0xFFFFFFFF
