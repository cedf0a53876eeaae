"""Page checksums at the head of the log, ahead of the file by what is not flushed.

Always true: an entry is taken from `_new`, else from what lies below if its page is not beyond
`_cut`, the smallest size since the last write; else it is 0. Below is the file, or all entries of
a log that is to start anew. So a failed or missing flush leaves the file as it was.
"""

from __future__ import annotations

from litemq.txlog.checksums import ENTRY_SIZE, PageChecksums, xor_of


class _Entries:
    """All page checksums of one state, in memory."""

    def __init__(self, entries: bytearray) -> None:
        self._entries = entries

    def get(self, pgno: int) -> int:
        return int.from_bytes(self._entries[(pgno - 1) * ENTRY_SIZE : pgno * ENTRY_SIZE], "big")

    def read(self, first_pgno: int, count: int) -> bytes:
        start = (first_pgno - 1) * ENTRY_SIZE
        return bytes(self._entries[start : start + count * ENTRY_SIZE])

    def xor_range(self, first_pgno: int, last_pgno: int) -> int:
        return xor_of(self._entries[(first_pgno - 1) * ENTRY_SIZE : last_pgno * ENTRY_SIZE])


class StagedChecksums:
    def __init__(self, file: PageChecksums, n_pages: int) -> None:
        """`file` must stand at `n_pages` pages."""
        self._file = file
        self._below: PageChecksums | _Entries = file
        self._new: dict[int, int] = {}
        self._cut = n_pages
        self.n_pages = n_pages
        self.total = file.total()

    def get(self, pgno: int) -> int:
        checksum = self._new.get(pgno)
        if checksum is None:
            return self._below.get(pgno) if pgno <= self._cut else 0
        return checksum

    def xor_beyond(self, commit: int) -> int:
        """XOR of the checksums of all pages after page `commit`, flag not set again."""
        value = self._below.xor_range(commit + 1, self._cut) if commit < self._cut else 0
        for pgno, checksum in self._new.items():
            if pgno > commit:
                value ^= checksum
                if pgno <= self._cut:
                    value ^= self._below.get(pgno)
        return value

    def entries(self, n_pages: int) -> bytearray:
        """All of them, for a database of `n_pages` pages, 8 bytes each."""
        entries = bytearray(self._below.read(1, min(n_pages, self._cut)))
        entries += bytes(n_pages * ENTRY_SIZE - len(entries))
        for pgno, checksum in self._new.items():
            if pgno <= n_pages:
                entries[(pgno - 1) * ENTRY_SIZE : pgno * ENTRY_SIZE] = checksum.to_bytes(8, "big")
        return entries

    def start_anew(self, entries: bytearray, total: int) -> None:
        """From now on these count, and what is staged after them. The file is to get them first."""
        self._below = _Entries(entries)
        self._new = {}
        self._cut = self.n_pages = len(entries) // ENTRY_SIZE
        self.total = total

    def started(self) -> None:
        """The file has the entries of `start_anew`."""
        self._below = self._file

    def stage(self, sums: dict[int, int], commit: int, total: int, *, restarts: bool) -> None:
        """The database is `commit` pages now, of which those in `sums` are new; `restarts` forgets
        all others.
        """
        if restarts:
            self._new.clear()
            self._cut = 0
        elif commit < self.n_pages:
            self._cut = min(self._cut, commit)
            self._new = {pgno: sum_ for pgno, sum_ in self._new.items() if pgno <= commit}
        self._new.update(sums)
        self.n_pages = commit
        self.total = total

    def write(self) -> None:
        """Bring the file up to date; room must have been reserved."""
        file = self._file
        if self._cut < file.n_pages:
            file.resize(self._cut)
        if file.n_pages != self.n_pages:
            file.resize(self.n_pages)
        for pgno, checksum in self._new.items():
            file.set(pgno, checksum)
        self._new.clear()
        self._cut = self.n_pages
