"""Frames of one generation of a WAL, one by one, by their numbers.

Owns nothing: whoever made it has the file open. Reads what stands there; whether a frame is
committed is the caller's knowledge.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from struct import iter_unpack

from litemq.errors import FormatError
from litemq.fs.wal import BLANK_SALTS, FRAME_HEADER_BYTES, WalHeader, frame_offset

#: read at once where many frames are gone through
WALK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Survey:
    """Of consecutive frames."""

    newest: array[int]
    #: none was left blank (`BLANK_SALTS`), or is of another generation
    whole: bool
    #: the last frame that ends a commit, before the first such one
    commit: int


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
        return self.survey(first, last).newest

    def survey(self, first: int, last: int) -> Survey:
        """What the heads of these frames say; the last one ends a commit."""
        _, n_pages = self.head(last)
        found = array("I", bytes(4)) * (n_pages + 1)
        whole, commit, ours = True, first - 1, self._salts
        for begin, buffer in self._walk(first, last):
            for frame, (number, size, salts) in enumerate(self._heads(buffer), begin):
                if number <= n_pages:
                    found[number] = frame
                if salts != ours:
                    whole = False
                if size and whole:
                    commit = frame
        return Survey(found, whole, commit)

    def images(self, newest: array[int], first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """The pages whose newest frame is one of these, in the order of the frames. `newest` is of
        `newest`. Raises FormatError if one is of another generation by now.
        """
        size, end = self.page_size, len(newest)
        step = FRAME_HEADER_BYTES + size
        left = sum(1 for frame in newest if first <= frame <= last)
        for begin, buffer in self._walk(first, last):
            at = FRAME_HEADER_BYTES
            for frame, (number, _, salts) in enumerate(self._heads(buffer), begin):
                if number < end and newest[number] == frame:
                    if salts not in (self._salts, BLANK_SALTS):
                        raise FormatError(f"WAL frame {frame} has been overwritten")
                    left -= 1
                    yield number, buffer[at : at + size]
                at += step
        if left:
            raise FormatError("the WAL has been cut or overwritten while it was read")

    def _heads(self, buffer: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Of the frames in it: page number, size if it ends a commit, salts."""
        return iter_unpack(f">II8s{FRAME_HEADER_BYTES - 16 + self.page_size}x", buffer)

    def _walk(self, first: int, last: int) -> Iterator[tuple[int, bytes]]:
        """Whole frames, many at once, and the number of the first; as far as the file goes."""
        size = FRAME_HEADER_BYTES + self.page_size
        step = max(1, WALK_BYTES // size)
        while first <= last:
            want = min(step, last + 1 - first)
            buffer = os.pread(self.fd, want * size, self.offset(first))
            found = len(buffer) // size
            yield first, buffer[: found * size]
            if found < want:
                return
            first += found
