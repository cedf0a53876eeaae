"""Who takes part in an election, as values: the holder of the lease, the members of the cluster.

Names of nodes are unique in a cluster; they break ties.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from litemq.txlog.ids import Epoch
from litemq.txlog.position import Position


class Holder(Struct, frozen=True):
    """The node that holds the lease, where it is reached, and the epoch of its term."""

    node: str
    address: str
    epoch: Epoch


class Standing(Struct, frozen=True, order=True):
    """How advanced a node is over all its databases; the greater one has more."""

    epoch: Epoch = 0  # the highest in any position: a later term beats any number of transactions
    txids: int = 0  # the sum of all TXIDs


def standing_of(positions: Iterable[Position]) -> Standing:
    """The standing of a node with these positions, one for each database."""
    held = tuple(positions)
    return Standing(max((each.epoch for each in held), default=0), sum(each.txid for each in held))


class Member(Struct, frozen=True):
    """A node that is alive, as it announced itself last."""

    node: str
    standing: Standing = Standing()
    candidate: bool = True
    fit: bool = True  # its log is whole and ready
    unfit: str = ""  # why it is not
    connected: bool = True  # it follows the node that was asked; matters to a hand-over only
    epoch_seen: Epoch = 0  # the highest epoch it has seen
    lost: Epoch = 0  # it announced this standing after it saw the end of this epoch
