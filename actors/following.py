"""What a replica does about one database, decided from what it sees of the primary. Pure: no
sockets, no clock, no files.

Always true: at most one transfer is under way for a database, a transfer that goes silent is asked
for again, and a record is taken only if its TXID is the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from litemq.txlog.position import Position

#: a transfer is asked for again when nothing of it has come for this long
SILENT_S = 3.0
#: live records kept aside while a transfer is under way (bytes)
STASH_BYTES = 4 * 1024 * 1024


class Phase(Enum):
    """What a replica is doing about a database."""

    LIVE = auto()
    FETCHING = auto()
    REPAIRING = auto()


class Step(Enum):
    """What to do next."""

    NOTHING = auto()
    TAKE = auto()
    FETCH = auto()
    REPAIR = auto()


@dataclass(slots=True)
class Following:
    """The state of one database on its way to the primary's head."""

    phase: Phase = Phase.LIVE
    transfer: int = 0
    heard_s: float = 0.0
    #: a head behind ours, and since when the primary has announced it
    behind_txid: int = 0
    behind_s: float = 0.0

    def head_seen(
        self,
        mine: Position,
        theirs: Position,
        now_s: float,
        *,
        same_term: bool = False,
        relayed: bool = False,
    ) -> Step:
        """The primary announced its head.

        `same_term`: ours came from the primary's present term, in which its head never goes back.
        Then one behind ours was overtaken by a transfer, unless it stays. `relayed`: a relay
        announced its own, and may be slower than we are.
        """
        if self.phase is not Phase.LIVE:
            if now_s - self.heard_s <= SILENT_S:
                return Step.NOTHING
            return Step.REPAIR if self.phase is Phase.REPAIRING else Step.FETCH
        if mine.txid < theirs.txid:
            return Step.FETCH
        if mine.txid > theirs.txid:
            patient = same_term or relayed
            return self._behind(theirs.txid, now_s) if patient else Step.REPAIR
        if mine.checksum != theirs.checksum:
            return Step.REPAIR
        return Step.NOTHING

    def _behind(self, txid: int, now_s: float) -> Step:
        if txid != self.behind_txid:
            self.behind_txid, self.behind_s = txid, now_s
        return Step.REPAIR if now_s - self.behind_s > SILENT_S else Step.NOTHING

    def records_seen(
        self, mine: Position, first_txid: int, last_txid: int, *, inline: bool
    ) -> Step:
        """Live records arrived, or were announced."""
        if last_txid <= mine.txid or self.phase is not Phase.LIVE:
            return Step.NOTHING
        if first_txid > mine.txid + 1 or not inline:
            return Step.FETCH
        return Step.TAKE

    def begin(self, phase: Phase, transfer: int, now_s: float) -> None:
        """A transfer has been asked for."""
        self.phase = phase
        self.transfer = transfer
        self.heard_s = now_s

    def is_current(self, transfer: int) -> bool:
        """Whether a piece of this transfer is what we wait for."""
        return self.phase is not Phase.LIVE and transfer == self.transfer

    def done(self) -> None:
        """The transfer has ended, well or not; the next head tells what is still missing."""
        self.phase = Phase.LIVE
        self.transfer = 0
