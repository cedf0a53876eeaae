"""Frames of one generation of a WAL, one by one, by their numbers.

Owns nothing: whoever made it has the file open. Reads what stands there; whether a frame is
committed is the caller's knowledge.
"""

from __future__ import annotations

import os
from array import array

from litemq.errors import FormatError
from litemq.fs.wal import BLANK_SALTS, FRAME_HEADER_BYTES, WalHeader, frame_offset


class WalFrames:
    """The first is number 1. Every method may raise OSError."""

    def __init__(self, fd: int, header: WalHeader) -> None:
        self.fd = fd
        self.page_size = header.page_size
        self._salts = header.salts

    def offset(self, frame: int) -> int:
        return frame_offset(frame, self.page_size)

    def head(self, frame: int) -> tuple[int, int]:
        """The number of its page, and the size of the database if it ends a commit, or 0."""
        head = os.pread(self.fd, 8, self.offset(frame))
        return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")

    def page(self, frame: int) -> bytes:
        """Its page. Raises FormatError if it is of another generation by now."""
        size = FRAME_HEADER_BYTES + self.page_size
        raw = os.pread(self.fd, size, self.offset(frame))
        if len(raw) < size or raw[8:16] not in (self._salts, BLANK_SALTS):
            raise FormatError(f"WAL frame {frame} has been overwritten")
        return raw[FRAME_HEADER_BYTES:]

    def end_of_commit(self, first: int, last: int) -> int:
        """The first frame from `first` on that ends a commit; `last` does in any case."""
        for frame in range(first, last):
            if self.head(frame)[1]:
                return frame
        return last

    def newest(self, first: int, last: int) -> array[int]:
        """By page number the last of these frames that has it, 0 for none.

        The last frame ends a commit, and so tells how many pages there are.
        """
        _, n_pages = self.head(last)
        found = array("I", bytes(4)) * (n_pages + 1)
        for frame in range(first, last + 1):
            number, _ = self.head(frame)
            if number <= n_pages:
                found[number] = frame
        return found
