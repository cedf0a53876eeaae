"""LTX version 3, byte for byte: one transaction is one record, the same on disk and on the wire.

    header 100 | page frame ... | 6 zero bytes | page index | index size 8
    | post-apply checksum 8 | file checksum 8

Owns the encoding and nothing else: no files, no order of transactions. docs/format.md has the byte
tables; the format is defined by the README of superfly/ltx. Only what `encode` writes is read: LZ4
block frames with a size, checksums on.

Always true: what `encode` returns, `decode` accepts; what `decode` accepts, `encode` could have
written, except that the same page may be compressed differently (the file checksum covers pages,
not their LZ4 bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error

import lz4.block
from fastcrc.crc64 import go_iso

from litemq.errors import FormatError
from litemq.txlog.checksums import CHECKSUM_FLAG, EMPTY, lock_page, page_checksum

MAGIC = b"LTX1"
HEADER_SIZE = 100
FRAME_HEADER_SIZE = 10
TRAILER_SIZE = 16
PAGE_SIZES = frozenset(1 << shift for shift in range(9, 17))  # 512 to 65,536
MAX_PAGE_NO = 0xFFFFFFFE  # SQLite's own limit

_NO_DATABASE_CHECKSUMS = 2  # the only header flag
_FRAME_HAS_SIZE = 1  # the only page flag: LZ4 block data, preceded by its length
_END_OF_FRAMES = bytes(6)

# magic flags page_size commit | min max timestamp pre_checksum | wal_offset wal_size salt1 salt2 |
# node_id, 20 reserved
_HEADER = Struct(">4sIII QQqQ qqII Q20s".replace(" ", ""))
_FRAME = Struct(">IHI")  # page number, flags, length of the LZ4 block
_U64 = Struct(">Q")
_U64_PAIR = Struct(">QQ")
_RESERVED = bytes(20)
_MAX_I64 = (1 << 63) - 1

_pack_header = _HEADER.pack
_pack_frame = _FRAME.pack
_unpack_frame = _FRAME.unpack_from
_compress = lz4.block.compress
_decompress = lz4.block.decompress


class TruncatedError(FormatError):
    """The bytes end before the record does; as far as they go they may be right."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a record says about itself. Sizes are in bytes, `commit` in pages, salts as in the WAL
    header.
    """

    page_size: int
    commit: int
    min_txid: int
    max_txid: int
    timestamp_ms: int
    pre_checksum: int
    wal_offset: int = 0
    wal_size: int = 0
    wal_salt1: int = 0
    wal_salt2: int = 0
    node_id: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """A verified record. `pages` ascend by number."""

    header: Header
    pages: tuple[tuple[int, bytes], ...]
    post_checksum: int
    file_checksum: int


def encode(header: Header, pages: Sequence[tuple[int, bytes]], post_checksum: int) -> bytes:
    """The record's bytes. `pages` must ascend by number. Raises FormatError for what `decode` would
    refuse.
    """
    problem = _header_problem(header)
    if problem:
        raise FormatError(f"cannot encode: {problem}")
    page_size, commit = header.page_size, header.commit
    lock = lock_page(page_size)
    try:
        head = _pack_header(
            MAGIC, 0, page_size, commit, header.min_txid, header.max_txid, header.timestamp_ms,
            header.pre_checksum, header.wal_offset, header.wal_size, header.wal_salt1,
            header.wal_salt2, header.node_id, _RESERVED,
        )  # fmt: skip
    except struct_error as error:
        raise FormatError(f"cannot encode: a header field is out of range: {error}") from error
    crc = go_iso(head)
    parts = [head]
    index = bytearray()
    offset = HEADER_SIZE
    previous = 0
    for pgno, data in pages:
        if len(data) != page_size or not previous < pgno <= commit or pgno == lock:
            raise FormatError(
                f"cannot encode: page {pgno} of {len(data)} bytes after page {previous} "
                f"in a database of {commit} pages of {page_size} bytes"
            )
        previous = pgno
        block = _compress(data, store_size=False)
        size = len(block)
        frame = _pack_frame(pgno, _FRAME_HAS_SIZE, size)
        crc = go_iso(data, go_iso(frame, crc))
        parts += (frame, block)
        size += FRAME_HEADER_SIZE
        for value in (pgno, offset, size):
            while value > 127:
                index.append(value & 127 | 128)
                value >>= 7
            index.append(value)
        offset += size
    problem = _content_problem(header, pages, post_checksum)
    if problem:
        raise FormatError(f"cannot encode: {problem}")
    index.append(0)
    tail = b"".join((_END_OF_FRAMES, index, _U64_PAIR.pack(len(index), post_checksum)))
    parts += (tail, _U64.pack(go_iso(tail, crc) | CHECKSUM_FLAG))
    return b"".join(parts)


def decode(buf: bytes | bytearray | memoryview) -> Transaction:
    """Verify one record, which must be all of `buf`, down to its last byte. Raises FormatError."""
    view = memoryview(buf)
    header, frames, index_at = _walk(view, 0)
    end = index_at + _index_length(frames) + 8 + TRAILER_SIZE
    if end > len(view):
        raise TruncatedError("the record ends within its index or trailer")
    if end < len(view):
        raise FormatError(f"{len(view) - end} bytes follow the end of the record")

    page_size = header.page_size
    crc = go_iso(view[:HEADER_SIZE])
    pages: list[tuple[int, bytes]] = []
    for pgno, at, size in frames:
        body = at + FRAME_HEADER_SIZE
        try:
            data = _decompress(view[body : at + size], uncompressed_size=page_size)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise FormatError(f"page {pgno} does not decompress: {error}") from error
        if len(data) != page_size:
            raise FormatError(f"page {pgno} decompresses to {len(data)} bytes, not {page_size}")
        crc = go_iso(data, go_iso(view[at:body], crc))
        pages.append((pgno, data))
    crc = go_iso(view[index_at - len(_END_OF_FRAMES) : end - 8], crc)

    (file_checksum,) = _U64.unpack_from(view, end - 8)
    if file_checksum != crc | CHECKSUM_FLAG:
        raise FormatError("the file checksum does not match")
    index = _encode_index(frames)
    index_end = index_at + len(index)
    if view[index_at:index_end] != index:
        raise FormatError("the page index does not match the pages")
    index_size, post_checksum = _U64_PAIR.unpack_from(view, index_end)
    if index_size != len(index):
        raise FormatError("the size of the page index is wrong")
    problem = _content_problem(header, pages, post_checksum)
    if problem:
        raise FormatError(problem)
    return Transaction(header, tuple(pages), post_checksum, file_checksum)


def peek(buf: bytes | bytearray | memoryview, offset: int = 0) -> Header:
    """The header at `offset`, checked for plausibility only. Raises FormatError."""
    if len(buf) - offset < HEADER_SIZE:
        if bytes(buf[offset : offset + 4]) != MAGIC[: max(0, len(buf) - offset)]:
            raise FormatError("no LTX record starts here")
        raise TruncatedError("the record ends within its header")
    magic, flags, page_size, commit, *fields, reserved = _HEADER.unpack_from(buf, offset)
    if magic != MAGIC:
        raise FormatError("no LTX record starts here")
    if flags or reserved != _RESERVED:
        raise FormatError(f"unsupported LTX flags {flags:#x} or reserved bytes in use")
    header = Header(page_size, commit, *fields)
    problem = _header_problem(header)
    if problem:
        raise FormatError(problem)
    return header


def measure(buf: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """Length of the record at `offset`, found by walking its frames without decompressing them.

    Raises TruncatedError when `buf` ends before the record, FormatError when it is none.
    """
    view = memoryview(buf)
    _, frames, index_at = _walk(view, offset)
    index_length = _index_length(frames)
    end = index_at + index_length + 8 + TRAILER_SIZE
    if end > len(view):
        raise TruncatedError("the record ends within its index or trailer")
    index_size, post_checksum, file_checksum = Struct(">QQQ").unpack_from(view, end - 24)
    if index_size != index_length:
        raise FormatError("the size of the page index is wrong")
    if not post_checksum & file_checksum & CHECKSUM_FLAG:
        raise FormatError("a checksum in the trailer lacks its flag")
    return end - offset


def post_checksum_of(record: bytes | bytearray | memoryview) -> int:
    """Database checksum after a whole record, from its trailer, unverified."""
    if len(record) < HEADER_SIZE + TRAILER_SIZE:
        raise TruncatedError("the record ends before its trailer")
    checksum: int = _U64.unpack_from(record, len(record) - TRAILER_SIZE)[0]
    return checksum


def without_database_checksums(record: bytes) -> bytes:
    """The same transaction as an LTX file that leaves pre- and post-apply checksums out.

    For tools that refuse files with them; `decode` does not take it back. Raises FormatError.
    """
    transaction = decode(record)
    stripped = bytearray(record)
    stripped[4:8] = _NO_DATABASE_CHECKSUMS.to_bytes(4, "big")
    stripped[40:48] = bytes(8)
    stripped[-16:-8] = bytes(8)
    crc = go_iso(stripped[:HEADER_SIZE])
    at = HEADER_SIZE
    for _, data in transaction.pages:
        body = at + FRAME_HEADER_SIZE
        crc = go_iso(data, go_iso(stripped[at:body], crc))
        at = body + _unpack_frame(stripped, at)[2]
    crc = go_iso(stripped[at:-8], crc)
    stripped[-8:] = _U64.pack(crc | CHECKSUM_FLAG)
    return bytes(stripped)


def _header_problem(header: Header) -> str | None:
    """What is wrong with a header taken by itself, or None."""
    if header.page_size not in PAGE_SIZES:
        return f"{header.page_size} is no page size"
    if not 0 <= header.commit <= MAX_PAGE_NO:
        return f"a database cannot have {header.commit} pages"
    if not 0 < header.min_txid <= header.max_txid:
        return f"TXIDs {header.min_txid} to {header.max_txid} are no range"
    if header.min_txid == 1:
        if header.pre_checksum:
            return "the first transaction has a pre-apply checksum"
    elif not header.pre_checksum & CHECKSUM_FLAG:
        return "the pre-apply checksum lacks its flag"
    if not (0 <= header.wal_offset <= _MAX_I64 and 0 <= header.wal_size <= _MAX_I64):
        return "a WAL offset or size is out of range"
    if not header.wal_offset and (header.wal_size or header.wal_salt1 or header.wal_salt2):
        return "a WAL size or salt without a WAL offset"
    return None


def _content_problem(
    header: Header, pages: Sequence[tuple[int, bytes]], post_checksum: int
) -> str | None:
    """What is wrong with header, pages and post-apply checksum taken together, or None."""
    if not post_checksum & CHECKSUM_FLAG:
        return "the post-apply checksum lacks its flag"
    if not header.commit and post_checksum != EMPTY:
        return "a dropped database has a post-apply checksum"
    if header.min_txid == 1:
        if not _are_all(header, pages):
            return "the first transaction does not hold every page"
        total = EMPTY
        for pgno, data in pages:
            total ^= page_checksum(pgno, data)
        if total | CHECKSUM_FLAG != post_checksum:
            return "the post-apply checksum is not that of the pages"
    return None


def check_complete(transaction: Transaction) -> None:
    """A log starts with every page of its database, or not at all. Raises FormatError."""
    header = transaction.header
    if not _are_all(header, transaction.pages):
        raise FormatError(f"TXID {header.min_txid} begins a database and lacks some of its pages")


def _are_all(header: Header, pages: Sequence[tuple[int, bytes]]) -> bool:
    """Whether these are all pages but the lock page; they are within the database, each once."""
    lock = lock_page(header.page_size)
    return len(pages) == header.commit - (lock <= header.commit)


def _walk(view: memoryview, offset: int) -> tuple[Header, list[tuple[int, int, int]], int]:
    """Header, frames as (page, offset in `view`, size) and where the index starts."""
    header = peek(view, offset)
    commit = header.commit
    lock = lock_page(header.page_size)
    largest = (
        header.page_size + header.page_size // 255 + 16
    )  # LZ4's bound for an incompressible page
    frames: list[tuple[int, int, int]] = []
    at = offset + HEADER_SIZE
    length = len(view)
    previous = 0
    while True:
        if at + FRAME_HEADER_SIZE > length:
            # the shortest tail is longer than a frame header: whatever starts here is not whole
            raise TruncatedError("the record ends within its pages")
        pgno, flags, size = _unpack_frame(view, at)
        if not pgno and not flags:
            return header, frames, at + len(_END_OF_FRAMES)
        if flags != _FRAME_HAS_SIZE or not previous < pgno <= commit or pgno == lock:
            raise FormatError(f"page {pgno} with flags {flags:#x} cannot follow page {previous}")
        if not 0 < size <= largest:
            raise FormatError(f"page {pgno} cannot have {size} compressed bytes")
        previous = pgno
        size += FRAME_HEADER_SIZE
        frames.append((pgno, at - offset, size))
        at += size


def _index_length(frames: Iterable[tuple[int, int, int]]) -> int:
    length = 1
    for frame in frames:
        for value in frame:
            length += (value.bit_length() + 6) // 7
    return length


def _encode_index(frames: Iterable[tuple[int, int, int]]) -> bytearray:
    """(page, offset, size) as unsigned varints, lowest 7 bits first, then a zero."""
    index = bytearray()
    for frame in frames:
        for value in frame:
            while value > 127:
                index.append(value & 127 | 128)
                value >>= 7
            index.append(value)
    index.append(0)
    return index
