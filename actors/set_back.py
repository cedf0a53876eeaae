"""Notices that the primary was set back, to a snapshot of its disk perhaps, and has it move on.

Such a primary bears epochs that its replicas have seen: they would refuse it, or take two histories
for one. Always true: it is told only by a replica whose history and its own have a state in common;
a primary whose data directory was lost is refused, as ever, for it would replace everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from litemq import log
from litemq.actors.common_point import Common, CommonPoint
from litemq.actors.followed import Followed
from litemq.errors import LiteMQError
from litemq.transport import messages as m

#: a primary of an older epoch is looked at so often (seconds)
LOOK_S = 1.0


class SetBack:
    """Of the primary that one replica follows."""

    def __init__(
        self,
        node: str,
        answer_address: str,
        *,
        followed: Mapping[str, Followed],
        send: Callable[[m.Message], object],
    ) -> None:
        self._node = node
        self._answer_address = answer_address
        self._followed = followed
        self._send = send
        self._looked_s = 0.0
        self._number = time.time_ns() // 1000
        self._search: CommonPoint | None = None
        self._epoch = 0

    def older_epoch(self, message: m.StreamHeartbeat, epoch: int) -> None:
        """The primary is in an older one than `epoch`, which this replica has seen."""
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s, self._epoch = now, epoch
        for head in message.heads:
            followed = self._followed.get(head.database)
            if followed is not None and head.position.txid:
                try:
                    self._search = followed.database.common_point()
                except LiteMQError:
                    continue
                if self._search is not None:
                    self._number += 1
                    self._ask(head.database)
                    return

    def _ask(self, database: str) -> None:
        txids = [] if self._search is None else self._search.ask()
        if txids:
            self._send(
                m.AskChecksums(self._node, self._answer_address, self._number, database, txids)
            )

    def told(self, message: m.Checksums) -> bool:
        """An answer; false if it is to somebody else's question."""
        if self._search is None or message.transfer != self._number:
            return False
        found = {txid: int(checksum, 16) for txid, checksum in message.found}
        self._search.told(message.first, message.head, found)
        if self._search.found.txid:
            self._tell(self._epoch)
            self._search = None
        else:
            self._ask(message.database)
        return True

    def parted(self, followed: Followed, common: Common, term: int) -> None:
        """A search before a repair has found where this log parts from the primary's of `term`.

        If what comes next here was written in that very epoch, it has come twice.
        """
        epochs = followed.database.log.epochs
        if common.txid and common.parts and epochs.at(common.txid + 1) == term:
            self._tell(term)

    def _tell(self, epoch: int) -> None:
        log.get().info("the primary was set back", seen_epoch=epoch)
        self._send(m.EpochSeen(self._node, epoch))
