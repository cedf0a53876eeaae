"""What the applier of a relay tells its publisher: how far its logs are, and whose stream that is.

Does nothing on a node that is no relay. Always true: a head is told only after its records are in
the log, and only when the primary of the present epoch is known to have had that very state. So
what a relay announces never goes back within an epoch, as the primary's own heads never do.
"""

from __future__ import annotations

from litemq.actors.followed import Followed
from litemq.transport import messages as m
from litemq.transport.sockets import Sender


class Relaying:
    """The heads that may be passed on."""

    def __init__(self, to_publisher: Sender | None, *, epoch: int) -> None:
        """`to_publisher` is None where there is none."""
        self._to_publisher = to_publisher
        self._epoch = epoch
        self._told: dict[str, tuple[Followed, m.Head]] = {}
        self._above: list[str] = []
        self._orphan = True
        self._settling = True
        self._ready = False

    def begin_epoch(self, epoch: int) -> None:
        """The primary's term is another: nothing is known to be part of it yet."""
        self._epoch = epoch
        self._told.clear()
        self._settling = True
        self.tell()

    def heard(self, message: m.StreamHeartbeat, *, settling: bool) -> None:
        """The present parent was heard, and may be followed."""
        self._settling = settling
        state = ([*message.above, message.node], message.orphan)
        if state != (self._above, self._orphan):
            self._above, self._orphan = state
            self.tell()

    def lost(self) -> None:
        """There is no parent now."""
        if not self._orphan:
            self._orphan = True
            self.tell()

    def appended(self, followed: Followed) -> None:
        """The log of a database has grown, was made anew, or has been found to be right."""
        if self._to_publisher is None:
            return
        database = followed.database
        if followed.agreed_epoch != self._epoch or database.log.pending_bytes:
            return
        head = database.wire_head
        known = self._told.get(database.name)
        if not head.position.txid or (known is not None and known[1].position == head.position):
            return
        self._told[database.name] = (followed, head)
        if self._ready:
            self._to_publisher.send(m.DatabaseHeads([head]))

    def ready(self) -> None:
        """The node has caught up once: from now on others may be told."""
        self._ready = True
        self.tell()

    def tell(self) -> None:
        """Tell all of it; again and again, since the publisher may be another process by now."""
        if self._to_publisher is not None:
            heads = [
                head for of, head in self._told.values() if of.agreed_epoch == self._epoch
            ]  # the others have turned out to be of another history
            self._to_publisher.send(
                m.RelayState(
                    self._epoch, self._above, self._orphan, self._settling, self._ready, heads
                )
            )

    def barrier(self, message: m.BarrierReached) -> None:
        """Answer the publisher behind every head that was told before."""
        if self._to_publisher is not None:
            self._to_publisher.send(message)
