"""Where the history of a replica and its primary's part: a search by checksums, a few at a time.

Pure. Epochs alone can't tell: a primary that was set back (a snapshot of its disk, a restored
machine) may bear an epoch for the second time, with other contents. Always true: what is said to
be common has the same checksum in both histories, and the transaction behind it has not, or one of
them ends there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from litemq.transport.wire_values import MAX_CHECKSUMS as SAMPLES


@dataclass(frozen=True, slots=True)
class Common:
    """`txid` is the newest common one, 0 if they part before all that is known of both.

    `compared` is false if the two logs have no TXID of which both know the checksum. `parts` tells
    whether this log had, when the search began, one that is another in the primary's, or not there:
    what has come from the primary since is no such one.
    """

    txid: int
    compared: bool
    parts: bool


class CommonPoint:
    """The search for it, from the replica's side."""

    def __init__(self, first: int, head: int, checksum: Callable[[int], int | None]) -> None:
        """`first` to `head` are the TXIDs of which `checksum` knows the database's, or None."""
        self._first = first
        self._head = head
        self._checksum = checksum
        #: the newest that is the same, and the oldest that is not
        self._same: int | None = None
        self._other = head + 1
        self._compared = False

    def ask(self) -> list[int]:
        """The TXIDs of the next question; none when the answer is known."""
        low = self._first if self._same is None else max(self._first, self._same + 1)
        count = self._other - low
        if count <= SAMPLES:
            return list(range(low, self._other))
        step = (count - 1) / (SAMPLES - 1)
        return sorted({low + round(number * step) for number in range(SAMPLES)})

    def told(self, first: int, head: int, checksums: dict[int, int]) -> None:
        """The primary knows TXIDs from `first` to `head`; of those that were asked, these."""
        asked = self.ask()
        self._first = max(self._first, first)
        self._other = min(self._other, head + 1)
        for txid in asked:
            mine, theirs = self._checksum(txid), checksums.get(txid)
            if txid < self._first or txid >= self._other:
                continue
            if mine is None or theirs is None:  # gone meanwhile: the search goes on behind it
                self._first = txid + 1
                continue
            self._compared = True
            if mine != theirs:
                self._other = txid
            else:
                self._same = txid

    @property
    def found(self) -> Common:
        """When there is nothing left to ask."""
        return Common(self._same or 0, self._compared, parts=self._other <= self._head)
