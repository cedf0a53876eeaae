"""Committed pages of a database that programs use, without a lock on it.

A page of the file is committed if it has the checksum that the log names. One that has not is in
the WAL, or a transaction is under way: it is looked for in the newest records of the log, and at
last read through SQLite, whose locks a program may meet. Owns the descriptors of one database.
Always true: a page that is given was committed at some moment, at its begin or later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from litemq.errors import FormatError
from litemq.fs.dbpage import PageReader
from litemq.txlog import ltx
from litemq.txlog.checksums import ENTRY_SIZE, page_checksum
from litemq.txlog.durable import storage_error
from litemq.txlog.segment_reader import SegmentReader, TooOldError

#: of the log, from its end, that is searched for pages (bytes)
SEARCHED_BYTES = 32 * 1024 * 1024


class CommittedPages:
    """Of one database with pages of one size."""

    def __init__(
        self,
        file: Path,
        checksums: Path,
        log: Path,
        page_size: int,
        *,
        open_locked: Callable[[], PageReader],
        as_logged: Callable[[bytes], bytes],
    ) -> None:
        """`file` is the backing file, `checksums` and `log` the log's. `as_logged` makes page 1 of
        the file the log's.
        """
        self._file = file
        self._checksums = checksums
        self._log = log
        self._page_size = page_size
        self._open_locked = open_locked
        self._as_logged = as_logged
        self._reader: PageReader | None = None

    def from_file(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """Those that the file has as they are committed. Raises StorageError."""
        found = {}
        known = self._known(numbers)
        with contextlib.suppress(OSError), open(self._file, "rb", 0) as file:  # SQLite tells why
            for number, checksum in known.items():
                page = os.pread(file.fileno(), self._page_size, (number - 1) * self._page_size)
                if number == 1 and page:
                    page = self._as_logged(page)
                if page_checksum(number, page) == checksum:
                    found[number] = page
        return found

    def from_log(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """Those of which a newest record has the committed image. Raises StorageError."""
        found: dict[int, bytes] = {}
        wanted = self._known(numbers)
        left = SEARCHED_BYTES
        # retention may cut it meanwhile, and it may be damaged
        with contextlib.suppress(TooOldError, FormatError):
            for record in SegmentReader(self._log).newest_first():
                left -= len(record)
                if not wanted or left < 0:
                    break
                for number, page in ltx.decode(record).pages:
                    if page_checksum(number, page) == wanted.get(number):
                        del wanted[number]
                        found[number] = page
        return found

    def through_sqlite(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """All that are there. Raises BusyError, StorageError."""
        if self._reader is None:
            self._reader = self._open_locked()
        pages = self._reader.read(numbers)
        if 1 in pages:
            pages[1] = self._as_logged(pages[1])
        return pages

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _known(self, numbers: Iterable[int]) -> dict[int, int]:
        """Checksums of these pages at this moment."""
        try:
            with open(self._checksums, "rb", 0) as file:
                return {
                    number: int.from_bytes(
                        os.pread(file.fileno(), ENTRY_SIZE, (number - 1) * ENTRY_SIZE), "big"
                    )
                    for number in numbers
                }
        except OSError as error:
            raise storage_error(error, "read", self._checksums) from error
