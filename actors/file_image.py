"""A replica's database file as SQLite shows it, page by page: to compare it, and to copy it.

Reads through SQLite, so the WAL counts; changes nothing. Always true: page 1 is taken with the
bookkeeping bytes that the log knows (`tail`) in place of SQLite's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from litemq.errors import FormatError, NotADatabaseError, StorageError
from litemq.fs.dbpage import PageReader
from litemq.fs.pages import told_size, with_bookkeeping
from litemq.fs.sqlite_errors import BusyError
from litemq.fs.wal import FRAME_HEADER_BYTES, WAL_HEADER_BYTES, parse_wal_header
from litemq.txlog.checksums import lock_page, page_checksum

#: pages read at once
COMPARE_PAGES = 256
TAIL_BYTES = 12

#: what tells that a file and its WAL are as they were: inode, size and time of each
Fingerprint = tuple[tuple[int, int, int] | None, ...]


def checksums(path: Path, n_pages: int, tail: bytes, beat: Callable[[], None]) -> tuple[int, bytes]:
    """Page size and page checksums (8 bytes each); (0, b"") if it is no readable database.

    `n_pages` is how many the log knows, `beat` is called now and then. Raises BusyError.
    """
    if not os.path.exists(path) or not os.path.getsize(path):
        return 0, b""
    try:
        with PageReader(str(path), busy_timeout_s=0.0) as reader:
            header = reader.snapshot_header()
            sums = _read_checksums(reader, header.page_size, tail, beat)
            pages = len(sums) // 8
            if pages not in (header.n_pages_in_header, n_pages):
                # Cut short or drawn out. SQLite would write its own count into page 1.
                sums = bytes(8) + sums[8:]
            return header.page_size, sums
    except NotADatabaseError:
        return 0, b""


def is_cut_off(path: Path) -> bool:
    """Whether the database ends before its header says: half of what a program writes over it.

    Raises BusyError, StorageError, NotADatabaseError.
    """
    with PageReader(str(path), busy_timeout_s=0.0) as reader:
        told = told_size(reader.snapshot_header())
        return told > 0 and not reader.read([told])


def _read_checksums(
    reader: PageReader, page_size: int, tail: bytes, beat: Callable[[], None]
) -> bytes:
    sums = bytearray()
    lock = lock_page(page_size)
    number = 1
    while found := reader.read(range(number, number + COMPARE_PAGES)):
        for pgno in range(number, max(found) + 1):
            data = _as_logged(pgno, found.get(pgno, b""), tail)
            checksum = 0 if pgno == lock else page_checksum(pgno, data)
            sums += checksum.to_bytes(8, "big")
        if len(found) < COMPARE_PAGES:
            break
        beat()
        number += COMPARE_PAGES
    return bytes(sums)


def differing(
    found: Mapping[int, bytes],
    numbers: Iterable[int],
    logged: Callable[[int], int],
    n_pages: int,
    tail: bytes,
) -> set[int]:
    """Those of these pages that are not what the log says, and any behind `n_pages`.

    A page of which it knows nothing was never written, so it may hold anything.
    """
    wrong = set()
    for number in numbers:
        data, known = found.get(number), logged(number)
        if number > n_pages:
            fits = data is None
        elif not known:
            fits = True
        else:
            fits = data is not None and known in _sums(number, data, tail)
        if not fits:
            wrong.add(number)
    return wrong


def read_committed(path: Path, numbers: Sequence[int]) -> dict[int, bytes]:
    """These pages as SQLite shows them. Raises BusyError, StorageError, NotADatabaseError."""
    with PageReader(str(path), busy_timeout_s=0.0) as reader:
        return reader.read(numbers)


def read_stored(path: Path, numbers: Iterable[int], page_size: int) -> dict[int, bytes]:
    """These pages as the file has them, without those of which the WAL may have a newer image.

    Not for a file that this process has open with SQLite: closing it would drop SQLite's locks.
    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = {number: os.pread(fd, page_size, (number - 1) * page_size) for number in numbers}
    finally:
        os.close(fd)
    return {number: data for number, data in found.items() if len(data) == page_size}


def in_wal(path: Path) -> set[int]:
    """The pages of which the database's WAL holds an image, a valid one or not. Raises OSError."""
    try:
        fd = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return set()
    try:
        header = parse_wal_header(os.pread(fd, WAL_HEADER_BYTES, 0))
        step = FRAME_HEADER_BYTES + header.page_size
        starts = range(WAL_HEADER_BYTES, os.fstat(fd).st_size, step)
        return {int.from_bytes(os.pread(fd, 4, start), "big") for start in starts}
    except FormatError:
        return set()
    finally:
        os.close(fd)


def forget_cached(path: Path | str) -> None:
    """Have the kernel drop clean pages of the file, so that the disk is read and not a memory of
    it.

    Before SQLite opens the file in this process: closing a descriptor would take its locks away.
    """
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _sums(number: int, data: bytes, tail: bytes) -> set[int]:
    """Of page 1 in both journal modes: readers may keep it from being changed."""
    if number != 1:
        return {page_checksum(number, data)}
    page1 = _as_logged(1, data, tail)
    return {page_checksum(1, page1[:18] + mode + page1[20:]) for mode in (b"\x01\x01", b"\x02\x02")}


def pages(path: Path, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """These pages, in the order of their numbers, as they are. Raises BusyError, StorageError."""
    with PageReader(str(path), busy_timeout_s=0.0) as reader:
        for at in range(0, len(numbers), COMPARE_PAGES):
            yield from sorted(reader.read(numbers[at : at + COMPARE_PAGES]).items())


def copy(path: Path, fd: int, *, pages: int, tail: bytes, beat: Callable[[], None]) -> None:
    """Write the first `pages` to `fd`, as far as they can be read. Raises OSError, BusyError."""
    try:
        with PageReader(str(path), busy_timeout_s=0.0) as reader:
            size = reader.snapshot_header().page_size
            for number in range(1, pages + 1, COMPARE_PAGES):
                last = min(number + COMPARE_PAGES, pages + 1)
                for pgno, data in reader.read(range(number, last)).items():
                    os.pwrite(fd, _as_logged(pgno, data, tail), (pgno - 1) * size)
                beat()
    except BusyError:
        raise
    except (NotADatabaseError, StorageError):
        return  # it is damaged or gone: the log has what there is


def _as_logged(pgno: int, data: bytes, tail: bytes) -> bytes:
    return with_bookkeeping(data, tail) if pgno == 1 and len(tail) == TAIL_BYTES else data


def fingerprint(path: Path) -> Fingerprint:
    """Of the file at `path` and its WAL, None for what is not there."""
    found: list[tuple[int, int, int] | None] = []
    for suffix in ("", "-wal"):
        try:
            status = os.stat(f"{path}{suffix}")
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)
