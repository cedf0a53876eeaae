"""Which epoch wrote which transactions: a short table that tells where two histories part.

Entry (epoch, first TXID) holds up to the next entry. Always true: both columns ascend strictly. In
one epoch only one node appends, and it held everything before; so two logs that have the same epoch
at one TXID are equal up to there.
"""

from __future__ import annotations

from collections.abc import Iterable

from litemq.errors import FormatError, GapError
from litemq.txlog.ids import Epoch, Txid

MAX_ENTRIES = 1024


class EpochTable:
    def __init__(self, entries: Iterable[tuple[Epoch, Txid]] = ()) -> None:
        """Raises FormatError when the entries do not ascend."""
        self._entries: list[tuple[Epoch, Txid]] = []
        for epoch, first_txid in entries:
            if self._entries and not (
                epoch > self._entries[-1][0] and first_txid > self._entries[-1][1]
            ):
                raise FormatError(f"epoch table does not ascend at ({epoch}, {first_txid})")
            self._entries.append((epoch, first_txid))

    @property
    def last(self) -> Epoch:
        """The newest epoch, 0 if there is none."""
        return self._entries[-1][0] if self._entries else 0

    def at(self, txid: Txid) -> Epoch:
        """The epoch that wrote `txid`, 0 if the table does not reach back that far."""
        for epoch, first_txid in reversed(self._entries):
            if first_txid <= txid:
                return epoch
        return 0

    def append(self, epoch: Epoch, txid: Txid) -> bool:
        """Note that `txid` is written in `epoch`; True if that changed the table. An older epoch is
        a GapError.
        """
        if self._entries:
            last_epoch, first_txid = self._entries[-1]
            if epoch == last_epoch and txid >= first_txid:
                return False
            if epoch < last_epoch or txid < first_txid:
                raise GapError(
                    f"TXID {txid} of epoch {epoch} cannot follow epoch {last_epoch}, "
                    f"which began with TXID {first_txid}"
                )
            if txid == first_txid:  # the last epoch ended without having written anything
                self._entries.pop()
        self._entries.append((epoch, txid))
        # not when retention drops the transactions: a node that was away long has to find its own
        del self._entries[:-MAX_ENTRIES]
        return True

    def last_common(self, other: EpochTable, *, head: Txid, other_head: Txid) -> Txid:
        """The newest TXID up to which both logs are known to be equal, 0 if there is none."""
        mine = {epoch: (first, last) for epoch, first, last in self._spans(head)}
        common = 0
        for epoch, first, last in other._spans(other_head):
            if epoch in mine:
                my_first, my_last = mine[epoch]
                end = min(last, my_last)
                if end >= max(first, my_first):
                    common = max(common, end)
        return common

    def to_list(self) -> list[tuple[Epoch, Txid]]:
        return list(self._entries)

    @classmethod
    def from_list(cls, entries: Iterable[tuple[Epoch, Txid]]) -> EpochTable:
        return cls(entries)

    def _spans(self, head: Txid) -> Iterable[tuple[Epoch, Txid, Txid]]:
        ends = [first - 1 for _, first in self._entries[1:]] + [head]
        for (epoch, first), end in zip(self._entries, ends, strict=False):
            yield epoch, first, min(end, head)
