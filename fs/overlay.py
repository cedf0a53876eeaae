"""The committed pages of a WAL, laid over those of the database file.

Owns nothing: whoever made it has the WAL open, and keeps it at rest as long as this is read.
"""

from __future__ import annotations

import os


class Overlay:
    """The newest committed image of each page in a WAL at rest."""

    def __init__(self, fd: int, page_size: int, offsets: dict[int, int], n_pages: int) -> None:
        self.numbers = offsets.keys()
        self._fd = fd
        self._page_size = page_size
        self._offsets = offsets
        self.n_pages = n_pages

    def read(self, number: int) -> bytes | None:
        """The page's image in the WAL, None when the database file has the newest."""
        offset = self._offsets.get(number)
        return None if offset is None else os.pread(self._fd, self._page_size, offset)
