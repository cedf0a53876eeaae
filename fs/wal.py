"""Readers of SQLite's write-ahead log and of its index in shared memory.

Owns: their byte formats. Never writes, never locks, never opens a file: callers bring the bytes.
Always true: a frame counts as committed only if its salts are those of the log's header and either
the index covers it (`read_commits` with the frames up to `mx_frame`) or an unbroken chain of
checksums leads to it (`valid_commits`). Bytes beyond that are a writer's scratch paper.

Source: https://www.sqlite.org/fileformat2.html#the_write_ahead_log and
https://www.sqlite.org/walformat.html#the_wal_index_file_format
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from litemq.errors import FormatError
from litemq.fs.pages import is_page_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Checksum = tuple[int, int]

WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
INDEX_HEADER_BYTES = 96
"""Two copies of the header of the WAL index: what `parse_index_header` needs of `-shm`."""
_INDEX_COPY_BYTES = 48
_VERSION = 3007000
_MAGIC = 0x377F0682  # the lowest bit says that the checksums take big-endian words
_U32 = 0xFFFFFFFF
_READ_FRAMES = 64

_WAL_HEADER = Struct(">IIII8sII")
_FRAME_HEADER = Struct(">II8sII")
# version, unused, change counter, initialised, big-endian checksums, page size, mxFrame, nPage,
# frame checksum, salts, checksum of all this
_INDEX_HEADER = Struct("=IIIBBHII2I8s2I")
assert _INDEX_HEADER.size == _INDEX_COPY_BYTES
_unpack_frame = _FRAME_HEADER.unpack_from


def frame_offset(frame: int, page_size: int) -> int:
    """Where frame number `frame` starts in the file; the first is 1."""
    return WAL_HEADER_BYTES + (frame - 1) * (FRAME_HEADER_BYTES + page_size)


# -- checksums


def checksum(
    data: bytes | bytearray | memoryview, s1: int = 0, s2: int = 0, *, big_endian: bool
) -> Checksum:
    """SQLite's running checksum over a multiple of 8 bytes."""
    words = array("I", bytes(data))
    if big_endian != (sys.byteorder == "big"):
        words.byteswap()
    pairs = iter(words)
    for x, y in zip(pairs, pairs, strict=True):
        s1 = (s1 + x + s2) & _U32
        s2 = (s2 + y + s1) & _U32
    return s1, s2


# -- the header of the log


@dataclass(frozen=True, slots=True)
class WalHeader:
    page_size: int
    salts: bytes
    """8 bytes as they stand in the file; every valid frame repeats them."""
    checkpoint_sequence: int
    big_endian: bool
    """Whether checksums take big-endian words."""
    checksum: Checksum
    """Where the chain of the frames' checksums starts."""


def parse_wal_header(data: bytes) -> WalHeader:
    """The first 32 bytes of `-wal`. Raises FormatError: SQLite ignores such a log, too."""
    if len(data) < WAL_HEADER_BYTES:
        raise FormatError(f"{len(data)} bytes are too few for a WAL header of 32")
    magic, version, page_size, sequence, salts, c1, c2 = _WAL_HEADER.unpack_from(data)
    if magic & ~1 != _MAGIC or version != _VERSION:
        raise FormatError("not a WAL: the magic number or the version is another one")
    big_endian = bool(magic & 1)
    if checksum(data[:24], big_endian=big_endian) != (c1, c2):
        raise FormatError("the checksum of the WAL header is wrong")
    if not is_page_size(page_size):
        raise FormatError(f"{page_size} in a WAL header is no page size")
    return WalHeader(page_size, salts, sequence, big_endian, (c1, c2))


# -- the header of the index


@dataclass(frozen=True, slots=True)
class WalIndexHeader:
    page_size: int
    mx_frame: int
    """The last committed frame, 0 if none."""
    n_pages: int
    """Size of the database after it."""
    frame_checksum: Checksum
    """Of that frame: where `valid_commits` may go on."""
    salts: bytes
    """As in WalHeader: equal if the index is about that log."""
    big_endian: bool
    change: int
    """Grows with every transaction."""


def parse_index_header(data: bytes | memoryview) -> WalIndexHeader | None:
    """The first 96 bytes of `-shm`; None unless both copies agree, are whole and initialised.

    A writer changes the copies one after the other without a lock, so None may mean "look again".
    """
    first = bytes(data[:INDEX_HEADER_BYTES])
    if first[:48] != first[48:] or len(first) != INDEX_HEADER_BYTES:
        return None
    (
        version,
        _unused,
        change,
        initialised,
        big_endian,
        stored_page_size,
        mx_frame,
        n_pages,
        f1,
        f2,
        salts,
        c1,
        c2,
    ) = _INDEX_HEADER.unpack_from(first)
    if initialised != 1 or version != _VERSION:
        return None
    if checksum(first[:40], big_endian=sys.byteorder == "big") != (c1, c2):
        return None
    page_size = (stored_page_size & 0xFE00) + ((stored_page_size & 0x0001) << 16)
    return WalIndexHeader(page_size, mx_frame, n_pages, (f1, f2), salts, bool(big_endian), change)


def sealed_index(data: bytes) -> bytes:
    """The same 96 bytes, whole, but of a version that no SQLite knows.

    It then refuses the next transaction of every connection with SQLITE_CANTOPEN, and does not
    recover the WAL: "unable to open database file", which has programs open it anew.
    """
    copy = b"\xff" * 4 + data[4:40]
    copy += Struct("=2I").pack(*checksum(copy, big_endian=sys.byteorder == "big"))
    return copy + copy


# -- frames

#: A transaction that outgrew the cache and rewrote a page in the log writes its later frames
#: without salts and checksums, and fills them in when it commits. After a ROLLBACK TO, SQLite
#: (3.40 and others) forgets some: they stay blank, are in the index, and are read like any other.
BLANK_SALTS = bytes(8)


@dataclass(frozen=True, slots=True)
class Commit:
    """One transaction in the log."""

    pages: dict[int, int]
    """Page number to the offset of its data in the buffer that was read; the last image wins."""
    n_pages: int
    """Size of the database after it."""
    end_frame: int
    """Number of its commit frame."""


def read_commits(
    buf: bytes | bytearray | memoryview,
    page_size: int,
    *,
    first_frame: int,
    salts: bytes,
    blank: bool = False,
) -> list[Commit]:
    """The transactions in `buf`: consecutive whole frames, from number `first_frame` on.

    For frames that the index says are committed. Frames after the last commit frame are left
    out. Raises FormatError when a frame has other salts or no page number: then the log was
    started over after the index was read, or SQLite left a frame header blank (BLANK_SALTS);
    `blank` accepts those.
    """
    size = FRAME_HEADER_BYTES + page_size
    commits: list[Commit] = []
    pages: dict[int, int] = {}
    frame = first_frame
    for start in range(0, len(buf) - size + 1, size):
        pgno, n_pages, frame_salts, _c1, _c2 = _unpack_frame(buf, start)
        if (frame_salts != salts and not (blank and frame_salts == BLANK_SALTS)) or not pgno:
            raise FormatError(f"WAL frame {frame} does not belong to this log")
        pages[pgno] = start + FRAME_HEADER_BYTES
        if n_pages:
            commits.append(Commit(pages, n_pages, frame))
            pages = {}
        frame += 1
    return commits


def merged(commits: Sequence[Commit]) -> Commit:
    """Successive transactions as one: the newest image of each page, the last size."""
    pages: dict[int, int] = {}
    for commit in commits:
        pages.update(commit.pages)
    return Commit(pages, commits[-1].n_pages, commits[-1].end_frame)


@dataclass(frozen=True, slots=True)
class ValidCommit:
    """One transaction that a chain of checksums proves."""

    numbers: array[int]
    """Of the page in each of its frames; the last of them is `end_frame`."""
    n_pages: int
    end_frame: int
    frame_checksum: Checksum
    """Where to go on from."""

    @property
    def newest(self) -> dict[int, int]:
        """Page number to the last frame that has it."""
        first = self.end_frame + 1 - len(self.numbers)
        return {number: first + at for at, number in enumerate(self.numbers)}


def valid_commits(
    read: Callable[[int, int], bytes],
    header: WalHeader,
    *,
    first_frame: int = 1,
    running: Checksum | None = None,
    blank_up_to: int = 0,
) -> Iterator[ValidCommit]:
    """Walks the chain of checksums, as SQLite's recovery does, and stops where it breaks.

    For use without an index (locking_mode=EXCLUSIVE, recovery, before `-shm` exists).
    `read(offset, size)` gives bytes of `-wal`, fewer at its end. `first_frame` above 1 goes with
    the checksum of the commit frame before it. Takes about 70 us for a page of 4 KiB.
    Blank frame headers (BLANK_SALTS) break the chain for SQLite's recovery, but not for a process
    that holds the index in its memory: below the offset `blank_up_to`, they are taken as they are.
    """
    s1, s2 = header.checksum if running is None else running
    frame_bytes = FRAME_HEADER_BYTES + header.page_size
    frame = first_frame
    numbers = array("I")
    while True:
        buf = read(frame_offset(frame, header.page_size), frame_bytes * _READ_FRAMES)
        n_frames = len(buf) // frame_bytes
        for start in range(0, n_frames * frame_bytes, frame_bytes):
            pgno, n_pages, salts, c1, c2 = _unpack_frame(buf, start)
            if not pgno:
                return
            data = buf[start + FRAME_HEADER_BYTES : start + frame_bytes]
            if salts == header.salts:
                s1, s2 = checksum(buf[start : start + 8], s1, s2, big_endian=header.big_endian)
                s1, s2 = checksum(data, s1, s2, big_endian=header.big_endian)
                if (s1, s2) != (c1, c2):
                    return
            elif salts == BLANK_SALTS and frame_offset(frame, header.page_size) < blank_up_to:
                s1, s2 = c1, c2  # what SQLite goes on from, too
            else:
                return
            numbers.append(pgno)
            if n_pages:
                yield ValidCommit(numbers, n_pages, frame, (s1, s2))
                numbers = array("I")
            frame += 1
        if n_frames < _READ_FRAMES:
            return
