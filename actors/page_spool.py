"""Pages on their way into a database, collected in a file so that they need no memory.

Every page stands where the database will have it, with holes between; in memory is one byte for
each page. The file has no name, and goes with the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class PageSpool:
    """Pages by number, the newest image of each. Every method may raise OSError."""

    def __init__(self, directory: Path, page_size: int) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - for as long as the spool
        self._page_size = page_size
        #: by page number, from 0 on: whether it is there
        self._have = bytearray()

    def add(self, number: int, data: bytes) -> None:
        os.pwrite(self._file.fileno(), data, (number - 1) * self._page_size)
        if number > len(self._have):
            self._have += bytes(number - len(self._have))
        self._have[number - 1] = 1

    def cut(self, pages: int) -> None:
        """Forget what is behind the first so many pages."""
        del self._have[pages:]

    def start_over(self, page_size: int) -> None:
        """Forget everything; what comes is of this size."""
        self.cut(0)
        self._page_size = page_size

    def get(self, number: int) -> bytes | None:
        if number > len(self._have) or not self._have[number - 1]:
            return None
        return os.pread(self._file.fileno(), self._page_size, (number - 1) * self._page_size)

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """All of them, by ascending number."""
        for at, has in enumerate(self._have):
            if has:
                image = os.pread(self._file.fileno(), self._page_size, at * self._page_size)
                yield at + 1, image

    @property
    def count(self) -> int:
        return sum(self._have)

    def close(self) -> None:
        self._file.close()
