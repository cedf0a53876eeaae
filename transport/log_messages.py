"""To and from the owner of the log (log writer or replica applier), and whoever publishes it."""

from __future__ import annotations

import msgspec

from litemq.transport.wire_values import U64, Count, Head, Lineage, Message


class Barrier(Message, frozen=True):
    """Capture all that is committed, then tell the heads (of one database, or all if empty)."""

    request: U64
    reply_to: str
    database: str = ""


class BarrierReached(Message, frozen=True):
    """Answer to `Barrier`. A replica adds the primary's heads, as far as it has heard of them."""

    request: U64
    heads: list[Head]
    primary: list[Head] = msgspec.field(default_factory=list)


class CompleteLog(Message, frozen=True):
    """The node changes its role, and the log its owner: make log and files agree, then say so.

    The applier hears the primary no longer and applies all that is in the log, if the node is to be
    `primary`; else the log writer logs all that is committed.
    """

    reply_to: str
    epoch: U64
    primary: bool


class LogCompleted(Message, frozen=True):
    """Answer to `CompleteLog`; `reason` is empty if every file shows all of its log."""

    reason: str
    epoch: U64


class Follow(Message, frozen=True):
    """Follow the primary at this address (its `listen`); none while it is empty."""

    node: str
    address: str
    epoch: U64


class RecordsLogged(Message, frozen=True):
    """Records were appended (payload: the records back to back; none when only announced)."""

    head: Head
    first_txid: U64
    lengths: list[Count]


class DatabaseHeads(Message, frozen=True):
    """All heads, when an owner of the log or a publisher has started."""

    heads: list[Head]


class RelayState(Message, frozen=True):
    """On a relay, several times a second: which stream its own goes on.

    `heads` are those of its log, for every database of which the primary of this epoch is known to
    have had that very state. Until it is `ready` nothing of it is to be told.
    """

    epoch: U64
    above: Lineage
    orphan: bool
    settling: bool
    ready: bool
    heads: list[Head]


class PublisherStarted(Message, frozen=True):
    """The publisher asks for all heads."""


class DrainReplicas(Message, frozen=True):
    """Tell when `node` (every connected replica if empty) shows these heads, or time is up."""

    reply_to: str
    deadline_ms: Count
    heads: list[Head]
    node: str = ""
    request: U64 = 0


class ReplicasDrained(Message, frozen=True):
    """Answer to `DrainReplicas`."""

    complete: bool
    request: U64 = 0
