"""A replica tells the node above it that it is there, and what it shows.

Always true: a database whose file may be of an earlier state is not spoken of.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from litemq.actors.followed import Followed
from litemq.actors.reactor import Reactor
from litemq.config import Config
from litemq.transport import messages as m

#: transactions are acknowledged at once, but no more often than this
ACK_S = 0.005
#: and so long at once, when the primary waits for it
HURRY_S = 1.0


class Presence:
    """Of one replica."""

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        *,
        followed: dict[str, Followed],
        send: Callable[[m.Message], object],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._followed = followed
        self._send = send
        self._unacked: set[str] = set()
        self._scheduled = False
        self._acked_s = 0.0
        self._hurried_until_s = 0.0

    def applied(self, name: str) -> None:
        """A database shows more: say so soon."""
        self._unacked.add(name)
        if self._scheduled:
            return
        self._scheduled = True
        now = time.monotonic()
        pause_s = 0.0 if now < self._hurried_until_s else max(0.0, self._acked_s + ACK_S - now)
        self._reactor.later(pause_s, self._acknowledge)

    def hurry(self) -> None:
        """The primary waits for us."""
        self._hurried_until_s = time.monotonic() + HURRY_S
        self.tell()

    def tell(self, names: set[str] | None = None, *, leaving: bool = False) -> None:
        """Of these databases, or all."""
        applied = [
            each.database.wire_applied
            for name, each in self._followed.items()
            if (names is None or name in names)
            and each.database.applied.txid
            and not each.database.lost
        ]
        answers = self._config.stream.answer_address
        self._send(m.ReplicaAlive(self._config.node.name, answers, leaving, applied))

    def _acknowledge(self) -> None:
        self._scheduled = False
        self._acked_s = time.monotonic()
        names, self._unacked = self._unacked, set()
        self.tell(names)
