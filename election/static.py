"""The primary that the configuration names: no server, no expiry, no hand-over.

The lease is granted to the one node whose address is the primary's, whenever it asks, in an epoch
above the one it has seen. Nodes know nothing of each other: `members` is this node alone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import msgspec

from litemq.election.lease import (
    FOREVER,
    Claim,
    Grant,
    Identity,
    LeaseHeldError,
    LeaseLostError,
    LeaseUnavailableError,
    Member,
    View,
    check_cluster,
    summary,
)
from litemq.txlog.ids import Epoch, Txid

_INDEX = 1  # nothing ever changes


class StaticLease:
    """See `Lease`. `primary` is the address that the configuration names."""

    pace_s = 1.0

    def __init__(self, identity: Identity, primary: str) -> None:
        self.identity = identity
        self._primary = primary
        self._held = False
        self._member: Member | None = None
        self._closed = threading.Event()

    @property
    def _mine(self) -> bool:
        return self.identity.address == self._primary

    def join(self, cluster: str) -> None:
        self.identity = msgspec.structs.replace(self.identity, cluster=cluster)

    def acquire(self, epoch_seen: Epoch, positions: Mapping[str, tuple[Epoch, Txid]]) -> Grant:
        check_cluster(self.identity)
        if not self._mine:
            raise LeaseHeldError(self._claim(self.identity.cluster, {}))
        self._held = True
        return Grant(epoch=epoch_seen + 1, deadline_s=FOREVER, wait_s=0.0)

    def renew(self) -> float:
        if not self._held:
            raise LeaseLostError("no lease is held")
        return FOREVER

    def release(self, successor: str = "") -> None:
        self._held = False

    def give_back(self, epoch: Epoch) -> None:
        """The configuration is what holds it."""

    def watch(self, index: int, wait_s: float) -> View:
        if index == _INDEX:
            self._closed.wait(wait_s)
        if self._closed.is_set():
            raise LeaseUnavailableError("the election of this node has ended")
        claim = self._claim(self.identity.cluster or "static", {})
        return View(index=_INDEX, holder=claim, last=claim, safe_in_s=0.0)

    def announce(self, member: Member) -> bool:
        self._member = msgspec.structs.replace(member, alive=True)
        return True

    def members(self) -> list[Member]:
        return [self._member] if self._member else []

    def close(self) -> None:
        self._held = False
        self._closed.set()

    def _claim(self, cluster: str, positions: Mapping[str, tuple[Epoch, Txid]]) -> Claim:
        """Of the primary; the file tells its address only, so that stands for its name."""
        return Claim(
            cluster=cluster,
            node=self.identity.node if self._mine else self._primary,
            instance=self.identity.instance if self._mine else "",
            address=self._primary,
            epoch=0,
            ttl_s=0.0,
            positions=summary(positions),
        )
