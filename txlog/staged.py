"""Page checksums at the head of the log, ahead of the file by what is not flushed.

Always true: an entry is taken from `_new`, else from the file if its page is not beyond `_cut`, the
smallest size since the last write; else it is 0. So a failed or missing flush leaves the file as it
was.
"""

from __future__ import annotations

from litemq.txlog.checksums import PageChecksums


class StagedChecksums:
    def __init__(self, file: PageChecksums, n_pages: int) -> None:
        """`file` must stand at `n_pages` pages."""
        self._file = file
        self._new: dict[int, int] = {}
        self._cut = n_pages
        self.n_pages = n_pages
        self.total = file.total()

    def get(self, pgno: int) -> int:
        checksum = self._new.get(pgno)
        if checksum is None:
            return self._file.get(pgno) if pgno <= self._cut else 0
        return checksum

    def xor_beyond(self, commit: int) -> int:
        """XOR of the checksums of all pages after page `commit`, flag not set again."""
        value = self._file.xor_range(commit + 1, self._cut) if commit < self._cut else 0
        for pgno, checksum in self._new.items():
            if pgno > commit:
                value ^= checksum
                if pgno <= self._cut:
                    value ^= self._file.get(pgno)
        return value

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
