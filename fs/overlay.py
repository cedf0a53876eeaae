"""The committed pages of a WAL, laid over those of the database file.

Owns nothing: whoever made it has the WAL open, and keeps it at rest as long as this is read.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

from litemq.fs.wal import FRAME_HEADER_BYTES
from litemq.fs.wal_frames import WalFrames


class Overlay:
    """The newest image of each page in consecutive frames, of which the last ends a commit."""

    def __init__(
        self, frames: WalFrames, first: int, last: int, newest: array[int] | None = None
    ) -> None:
        """`newest`: what `frames` says of them, if that is known."""
        self._frames = frames
        self.first, self.last = first, last
        self._newest = frames.newest(first, last) if newest is None else newest
        self.n_pages = len(self._newest) - 1

    @property
    def numbers(self) -> list[int]:
        """Pages that the WAL has."""
        return [number for number, frame in enumerate(self._newest) if frame]

    def read(self, number: int) -> bytes | None:
        """The page's image in the WAL, None when the database file has the newest."""
        frame = self._newest[number] if number <= self.n_pages else 0
        if not frame:
            return None
        offset = self._frames.offset(frame) + FRAME_HEADER_BYTES
        return os.pread(self._frames.fd, self._frames.page_size, offset)

    def has(self, number: int) -> bool:
        return number <= self.n_pages and self._newest[number] > 0

    def images(self, up_to: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Its pages as they stand in the WAL, which is read once; `up_to`: those of later frames
        left out. Raises FormatError if the WAL has started over meanwhile.
        """
        last = self.last if up_to is None else min(up_to, self.last)
        return self._frames.images(self._newest, self.first, last)
