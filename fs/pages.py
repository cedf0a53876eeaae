"""The 100-byte header of a database, and the bytes of page 1 that are SQLite's own bookkeeping.

Owns: offsets in page 1. Never touches a file. Always true: what `parse_header` returns has a page
size that is a power of two from 512 to 65536, passed the tests SQLite makes before it opens, and
has nowhere what the file format rules out.

Engines that encrypt leave the first bytes of a file as SQLite has them if they are asked to
(SQLCipher's and SQLite3MC's plaintext header), so the beginning alone says nothing: behind it, the
format fixes 20 zero bytes, two small numbers, and the head of a b-tree page.

Source: https://www.sqlite.org/fileformat2.html#the_database_header
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct, iter_unpack, pack

from litemq.errors import NotADatabaseError, NotInTheClearError

HEADER_BYTES = 100
#: the header, and that of the b-tree page behind it
PROBE_BYTES = 112
MAGIC = b"SQLite format 3\0"
MIN_PAGE_SIZE = 512
MAX_PAGE_SIZE = 65536
_MIN_USABLE_BYTES = 480
_LARGEST_VERSION = 2
# magic, page size, write version, read version, reserved bytes, payload fractions, change counter,
# size in pages, free pages, schema cookie, schema format, largest root page, text encoding,
# incremental vacuum, what is reserved for later, version valid for
_HEADER = Struct(">16s H BBB 3s I I 4x I I I 4x I I 4x I 4x 20s I 4x".replace(" ", ""))
assert _HEADER.size == HEADER_BYTES

# Change counter, "version valid for" and the version that wrote last: each copy of SQLite that
# commits page 1 writes its own here, so two copies of one state may differ in them.
BOOKKEEPING = (slice(24, 28), slice(92, 100))
BOOKKEEPING_BYTES = 12

# kind, first free block, cells, where their content begins
_BTREE_HEADER = Struct(">BHHH")
_TABLE_INTERIOR, _TABLE_LEAF = 5, 13
_LARGEST_FORMAT = 4
_LARGEST_ENCODING = 3
#: SQLite's checksum VFS keeps a checksum in so many reserved bytes of each page
CHECKSUM_VFS_BYTES = 8


@dataclass(frozen=True, slots=True)
class DatabaseHeader:
    page_size: int
    reserved_bytes: int
    """At the end of every page, unused by SQLite itself."""
    wal: bool
    change_counter: int
    n_pages_in_header: int
    n_free_pages: int
    schema_cookie: int
    auto_vacuum: int
    """As in the PRAGMA: 0 none, 1 full, 2 incremental."""
    version_valid_for: int


def parse_header(data: bytes | bytearray | memoryview) -> DatabaseHeader:
    """Of the first 100 bytes; with PROBE_BYTES the b-tree page is looked at, too.

    Raises NotADatabaseError; NotInTheClearError where that is what the file wants to be.
    """
    if len(data) < HEADER_BYTES:
        raise NotADatabaseError(f"{len(data)} bytes are too few for a database header of 100")
    (
        magic,
        page_size,
        write_version,
        read_version,
        reserved_bytes,
        fractions,
        change_counter,
        n_pages,
        n_free_pages,
        schema_cookie,
        schema_format,
        largest_root_page,
        encoding,
        incremental_vacuum,
        for_later,
        version_valid_for,
    ) = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise NotADatabaseError("the file does not start with SQLite's magic string")
    page_size = page_size_of(page_size)
    if page_size - reserved_bytes < _MIN_USABLE_BYTES:
        raise NotADatabaseError(f"{reserved_bytes} reserved bytes leave no room in {page_size}")
    if fractions != b"\x40\x20\x20":
        raise NotADatabaseError("the payload fractions in the header are not SQLite's")
    if read_version > _LARGEST_VERSION or write_version > _LARGEST_VERSION:
        raise NotADatabaseError("the database is of a file format newer than WAL")
    # a database without a table has 0 in both
    if schema_format > _LARGEST_FORMAT or encoding > _LARGEST_ENCODING or any(for_later):
        raise NotInTheClearError(
            "it begins as a SQLite database, but its header is none: encrypted, or half written"
        )
    if len(data) >= PROBE_BYTES:
        _check_btree(data, page_size - reserved_bytes)
    return DatabaseHeader(
        page_size=page_size,
        reserved_bytes=reserved_bytes,
        wal=read_version == 2,
        change_counter=change_counter,
        n_pages_in_header=n_pages,
        n_free_pages=n_free_pages,
        schema_cookie=schema_cookie,
        auto_vacuum=0 if not largest_root_page else 2 if incremental_vacuum else 1,
        version_valid_for=version_valid_for,
    )


def read_header(read: Callable[[int], bytes]) -> DatabaseHeader:
    """As `parse_header`; `read` gives so many bytes of the beginning of the file, or what there is.

    Refuses databases of SQLite's checksum VFS, too.
    """
    header = parse_header(read(PROBE_BYTES))
    if header.reserved_bytes == CHECKSUM_VFS_BYTES:
        page1 = read(header.page_size)
        if len(page1) == header.page_size:
            _check_no_checksum(page1)
    return header


def _check_btree(data: bytes | bytearray | memoryview, usable: int) -> None:
    """Page 1 is the root of the schema, a table."""
    kind, free_block, cells, content = _BTREE_HEADER.unpack_from(data, HEADER_BYTES)
    content = content or 65536  # 0 stands for that
    pointers_end = HEADER_BYTES + (12 if kind == _TABLE_INTERIOR else 8) + 2 * cells
    if (
        kind not in (_TABLE_INTERIOR, _TABLE_LEAF)
        or not pointers_end <= content <= usable
        or (free_block and not content <= free_block <= usable - 4)
    ):
        raise NotInTheClearError(
            "it begins as a SQLite database, but its first page is none: encrypted, or half written"
        )


def _check_no_checksum(page1: bytes) -> None:
    """A replica's SQLite writes its own bookkeeping into page 1, and the checksum at the end of the
    page would be wrong: with the checksum VFS nobody could open that copy any more.

    Source: https://www.sqlite.org/cksumvfs.html
    """
    s1 = s2 = 0
    words = memoryview(page1[:-CHECKSUM_VFS_BYTES]).cast("B")
    for even, odd in iter_unpack("<II", words):
        s1 = (s1 + even + s2) & 0xFFFFFFFF
        s2 = (s2 + odd + s1) & 0xFFFFFFFF
    if page1[-CHECKSUM_VFS_BYTES:] == pack("<II", s1, s2):
        raise NotInTheClearError(
            "its pages bear the checksums of SQLite's checksum VFS, which a copy could not keep"
        )


def page_size_of(stored: int) -> int:
    """The page size behind its 16-bit form, in which 1 stands for 65536. NotADatabaseError."""
    page_size = MAX_PAGE_SIZE if stored == 1 else stored
    if not is_page_size(page_size):
        raise NotADatabaseError(f"{stored} is no page size")
    return page_size


def is_page_size(value: int) -> bool:
    return MIN_PAGE_SIZE <= value <= MAX_PAGE_SIZE and not value & (value - 1)


def database_size(header: DatabaseHeader, file_bytes: int) -> int:
    """Size in pages: what the header says if a version of SQLite wrote it that keeps it, and the
    file has that many pages; otherwise what the file holds.
    """
    in_file = file_bytes // header.page_size
    n_pages = told_size(header)
    return n_pages if 0 < n_pages <= in_file else in_file


def told_size(header: DatabaseHeader) -> int:
    """Size in pages as the header tells it; 0 if who wrote last does not keep it there."""
    kept = header.change_counter == header.version_valid_for
    return header.n_pages_in_header if kept else 0


def check_told_size(header: DatabaseHeader, commit: int) -> None:
    """A SQLite before 3.7 (2010) leaves the size in the header as it was, and says so by the change
    counter. A replica's SQLite writes a counter of its own, and would believe that size.
    """
    if not told_size(header) and header.n_pages_in_header not in (0, commit):
        raise NotInTheClearError(
            f"a SQLite before 3.7 has written it: its header tells {header.n_pages_in_header} pages"
            f" instead of {commit}, and a copy would lack the rest; a newer one's commit mends it"
        )


def bookkeeping(page1: bytes | memoryview) -> bytes:
    """The 12 bytes of page 1 in which equal databases may differ."""
    return b"".join(page1[part] for part in BOOKKEEPING)


def with_bookkeeping(page1: bytes, twelve_bytes: bytes) -> bytes:
    """Page 1 with these bytes instead of its own."""
    if len(twelve_bytes) != BOOKKEEPING_BYTES:
        raise ValueError(f"bookkeeping has 12 bytes, not {len(twelve_bytes)}")
    return b"".join((page1[:24], twelve_bytes[:4], page1[28:92], twelve_bytes[4:], page1[100:]))
