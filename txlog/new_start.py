"""Where a log starts anew: behind a transaction with more pages than a record should hold.

Of such a transaction only page checksums are kept, 8 bytes for each page of the database. Replicas
get it as a repair, which compares them and sends the pages that differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct

from litemq.txlog.checksums import CHECKSUM_FLAG, ENTRY_SIZE, lock_page, page_checksum, xor_of
from litemq.txlog.ids import Epoch
from litemq.txlog.ltx import Header
from litemq.txlog.position import Position

#: What a transaction changes at most if it is to be a record (bytes of pages): records are made and
#: read in memory, and one whose pages can't be compressed must still fit into a message.
LARGEST_RECORD_BYTES = 56 << 20
_pack_entry = Struct(">Q").pack_into


@dataclass(frozen=True, slots=True)
class NewStart:
    """The state behind the transaction, and where its content came from."""

    position: Position
    page_size: int
    entries: bytearray
    captured: tuple[int, ...]

    @classmethod
    def behind(cls, header: Header, epoch: Epoch, checksum: int, entries: bytearray) -> NewStart:
        """The transaction that this header would have been of."""
        captured = (header.wal_salt1, header.wal_salt2, header.wal_offset, header.wal_size)
        return cls(
            Position(epoch, header.max_txid, checksum),
            header.page_size,
            entries,
            captured if header.wal_offset else (),
        )

    @property
    def n_pages(self) -> int:
        return len(self.entries) // ENTRY_SIZE


def change(entries: bytearray, pages: Iterable[tuple[int, bytes]], page_size: int) -> None:
    """Set the checksums of these pages, as far as they are in the database."""
    lock, end = lock_page(page_size), len(entries)
    for pgno, data in pages:
        at = (pgno - 1) * ENTRY_SIZE
        if at < end and pgno != lock:
            _pack_entry(entries, at, page_checksum(pgno, data))


def complete(entries: bytearray, page_size: int, *, every: bool) -> None:
    """Where all pages are needed, those without a checksum are zeros; unless `every` was to be
    given. Raises ValueError.
    """
    lock = lock_page(page_size)
    zeros = bytes(page_size)
    for pgno, known in enumerate(memoryview(entries).cast("Q"), 1):
        if not known and pgno != lock:
            check_missing(pgno, len(entries) // ENTRY_SIZE, every=every)
            at = (pgno - 1) * ENTRY_SIZE
            entries[at : at + ENTRY_SIZE] = page_checksum(pgno, zeros).to_bytes(8, "big")


def check_missing(pgno: int, commit: int, *, every: bool) -> None:
    """A page that SQLite has allocated and never written may be missing; not the first one.

    `every`: none may. Raises ValueError.
    """
    if every or pgno == 1:
        raise ValueError(f"page {pgno} is missing where all {commit} pages are needed")


def total(entries: bytearray) -> int:
    """Checksum of the whole database."""
    return xor_of(entries) | CHECKSUM_FLAG
