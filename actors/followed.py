"""One database of a replica as the actor sees it: its files, how it is being followed, what waits.

Pure bookkeeping: no sockets, and no clock but the caller's. Always true: `repair` is open only
while a repair is under way.
"""

from __future__ import annotations

from litemq.actors.common_point import Common, CommonPoint
from litemq.actors.failing import FAILING, Failing
from litemq.actors.following import STASH_BYTES, Following
from litemq.actors.repair import Repair
from litemq.actors.replica_database import ReplicaDatabase
from litemq.transport import messages as m

#: pauses between attempts at a repair that keeps failing (seconds)
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0


class Followed:
    """A database, and where it stands."""

    def __init__(self, database: ReplicaDatabase) -> None:
        self.database = database
        self.following = Following()
        self.repair: Repair | None = None
        self._stash: list[tuple[m.LiveRecords, bytes]] = []
        self._stash_bytes = 0
        self.primary_head: m.Head | None = None
        self.behind_since_s: float | None = None
        #: not to be applied before; and since when readers have kept it from being applied
        self.retry_s = 0.0
        self.busy_since_s: float | None = None
        #: which programs do, if that takes long
        self.blocked_by = ""
        #: the primary's epoch in which this log was last known to be a state that it had
        self.agreed_epoch = 0
        self.needs_repair = not database.log.trusted or database.unknown
        self.state = "ok"
        #: it can't be applied, read or logged at present
        self.failing = Failing()
        #: checksums have shown that its history is not the primary's, and where they were compared;
        #: until it is repaired
        self.parted: str | None = None
        #: the search for where it parts from the primary's, and what that has found, for a repair
        self.search: CommonPoint | None = None
        self.common: Common | None = None
        #: the ID under which that was kept aside
        self.kept = ""
        #: why the last repair failed, told once; and when the next may begin
        self.failure = ""
        self.repair_after_s = 0.0
        self._pause_s = 0.0
        #: the last look at its file failed
        self.look_failed = False

    def is_at(self, txid: int) -> bool:
        """Whether the file is known to show that transaction or a later one."""
        return (
            self.database.applied.txid >= txid and self.database.checked and not self.needs_repair
        )

    def note_lag(self, now_s: float) -> None:
        """Remember since when the file has been behind the primary."""
        head = self.primary_head
        if head is None or self.database.applied.txid >= head.position.txid:
            self.behind_since_s = None
        elif self.behind_since_s is None:
            self.behind_since_s = now_s

    def status(self, lag_s: float) -> m.DatabaseStatus:
        """What `litemq status` shows; `lag_s` unless it is known to be behind for another time."""
        database = self.database
        return m.DatabaseStatus(
            name=database.name,
            txid=database.applied.txid,
            checksum=f"{database.applied.checksum:016x}",
            epoch=database.applied.epoch,
            page_size=database.log.page_size,
            pages=database.log.n_pages,
            lag_ms=min(int(lag_s * 1000), 1 << 31),
            state=self._shown_state,
            reason=self._reason,
            verified_ms=database.log.state.verified_ms,
        )

    @property
    def _reason(self) -> str:
        return self.failing.reason or self.failure or self.blocked_by

    @property
    def _shown_state(self) -> str:
        if self.failing.reason or self.failure:
            return FAILING
        return "checking" if self.database.lost else self.state

    # --- records

    def take(
        self,
        first_txid: int,
        lengths: list[int],
        data: bytes,
        epoch: int,
        epochs: list[tuple[int, int]] | None = None,
        *,
        term: int,
    ) -> None:
        """Take in consecutive records; what is already there is skipped.

        `epoch` wrote the last of them, `epochs` tells who wrote older ones; `term` is the epoch of
        the primary that sends them. Raises GapError, FormatError.
        """
        database = self.database
        at = 0
        for txid, length in enumerate(lengths, first_txid):
            record = data[at : at + length]
            at += length
            if txid > database.log.head.txid:
                database.take(record, _epoch_at(epochs, txid, epoch))
                self.agreed_epoch = term

    def stash(self, message: m.LiveRecords, data: bytes) -> None:
        """Keep live records that came during a transfer, as long as there is room."""
        if self._stash_bytes + len(data) <= STASH_BYTES:
            self._stash.append((message, data))
            self._stash_bytes += len(data)

    def unstash(self) -> list[tuple[m.LiveRecords, bytes]]:
        stash, self._stash, self._stash_bytes = self._stash, [], 0
        return stash

    # --- repairs

    def abandon(self) -> None:
        """What is under way came from elsewhere, or from an earlier epoch: it counts no more."""
        self.needs_repair = self.needs_repair or self.repair is not None
        self.drop_repair()
        self.forget_common()
        self.following.done()
        self.unstash()

    def forget_common(self) -> None:
        """It may part elsewhere by now, or from another primary's."""
        self.search = self.common = None

    def drop_repair(self) -> None:
        if self.repair is not None:
            self.repair.close()
            self.repair = None

    def repair_failed(self, now_s: float) -> None:
        """It is needed as before, but not at once: each failure doubles the pause."""
        self.drop_repair()
        self.forget_common()
        self.following.done()
        self.needs_repair = True
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self.repair_after_s = now_s + self._pause_s

    def repaired(self, term: int = 0) -> None:
        """It is what the primary of epoch `term` has."""
        self.agreed_epoch = term
        self.drop_repair()
        self.forget_common()
        self.following.done()
        self.state = "ok"
        self.failing.worked()
        self.failure = self.kept = ""
        self.parted = None
        self._pause_s = self.repair_after_s = 0.0


def _epoch_at(epochs: list[tuple[int, int]] | None, txid: int, default: int) -> int:
    """The epoch that wrote a record: a transfer may reach back over several."""
    found = 0
    for epoch, first in epochs or ():
        if first <= txid:
            found = epoch
    return found or default
