"""A replica's database file as SQLite shows it, page by page: to compare it, and to copy it.

Reads through SQLite, so the WAL counts; changes nothing. Always true: page 1 is taken with the
bookkeeping bytes that the log knows (`tail`) in place of SQLite's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from litemq.errors import NotADatabaseError, StorageError
from litemq.fs.dbpage import PageReader
from litemq.fs.pages import with_bookkeeping
from litemq.fs.sqlite_errors import BusyError
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
