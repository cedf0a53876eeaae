"""Whether the files of many nodes hold the same state: every page, every row.

Reads the files through SQLite, as any reader does, and changes nothing. Owns no opinion about
positions. Always true: page 1 is compared with the primary's counters in place of SQLite's own,
which differ between copies of one state (fs/pages.py).
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from litemq.actors import file_image
from litemq.errors import LiteMQError
from litemq.fs.dbpage import PageReader
from litemq.fs.pages import bookkeeping
from litemq.txlog.checksums import CHECKSUM_FLAG, xor_entries

BUSY_S = 5.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: page checksums, 8 bytes each, and the rows of its table."""

    page_size: int
    page_checksums: bytes
    rows: tuple[int, ...]

    @property
    def checksum(self) -> int:
        """Of the whole database, as a position has it."""
        return xor_entries(self.page_checksums) | CHECKSUM_FLAG


def tail_of(path: Path) -> bytes:
    """The bytes of page 1 that SQLite counts in. Raises LiteMQError."""
    with PageReader(str(path), busy_timeout_s=BUSY_S) as reader:
        return bookkeeping(reader.read([1])[1])


def content(path: Path, table: str, pages: int, tail: bytes) -> Content:
    """Of the file at `path`, which has that many pages. Raises LiteMQError."""
    # one copy of SQLite after the other: they must not have one file open in the same process
    page_size, sums = file_image.checksums(path, pages, tail, lambda: None)
    query = f"SELECT count(*), count(DISTINCT id), total(id), total(length(v)) FROM {table}"
    try:
        uri = f"file:{path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S)) as database:
            (row,) = database.execute(query).fetchall()
    except sqlite3.Error as error:
        raise LiteMQError(f"{path} can't be read: {error}") from error
    return Content(page_size, sums, tuple(int(each) for each in row))
