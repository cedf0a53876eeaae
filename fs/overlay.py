"""The committed pages of a WAL, laid over those of the database file.

Owns nothing: whoever made it has the WAL open, and keeps it at rest as long as this is read.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

from litemq.errors import FormatError
from litemq.fs.wal import BLANK_SALTS, FRAME_HEADER_BYTES, frame_offset


class Overlay:
    """The newest committed image of each page in a WAL at rest."""

    def __init__(self, fd: int, page_size: int, salts: bytes, frames: array[int]) -> None:
        """`frames` has the last frame of each page by its number, 0 for those that have none."""
        self._fd = fd
        self._page_size = page_size
        self._salts = salts
        self._frames = frames
        self.n_pages = len(frames) - 1

    @property
    def numbers(self) -> list[int]:
        """Pages that the WAL has."""
        return [number for number, frame in enumerate(self._frames) if frame]

    def read(self, number: int) -> bytes | None:
        """The page's image in the WAL, None when the database file has the newest."""
        frame = self._frames[number] if number <= self.n_pages else 0
        if not frame:
            return None
        offset = frame_offset(frame, self._page_size) + FRAME_HEADER_BYTES
        return os.pread(self._fd, self._page_size, offset)

    def images(self) -> Iterator[tuple[int, bytes]]:
        """All of its pages in turn. Raises FormatError if the WAL has started over meanwhile."""
        size = FRAME_HEADER_BYTES + self._page_size
        for number, frame in enumerate(self._frames):
            if frame:
                raw = os.pread(self._fd, size, frame_offset(frame, self._page_size))
                if len(raw) < size or raw[8:16] not in (self._salts, BLANK_SALTS):
                    raise FormatError(f"WAL frame {frame} has been overwritten")
                yield number, raw[FRAME_HEADER_BYTES:]
