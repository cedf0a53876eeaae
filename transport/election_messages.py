"""To and from the election watcher: what was seen of the primary, and what people want."""

from __future__ import annotations

import msgspec

from litemq.transport.wire_values import U64, Message, Name


class StreamSeen(Message, frozen=True):
    """The replica hears a primary of this epoch; `ended`: not any more."""

    epoch: U64
    ended: bool


class HandOver(Message, frozen=True):
    """Have another node be the primary: the one named, or the one that is furthest."""

    request: U64
    reply_to: str
    target: str


class TakeOver(Message, frozen=True):
    """Have the node that is asked be the primary."""

    request: U64
    reply_to: str


class HandedOver(Message, frozen=True):
    """Answer to both; `refused` is empty, or says why not."""

    request: U64
    refused: str


class AskForHandOver(Message, frozen=True):
    """A candidate wants to be the primary, and asks the one that is."""

    node: Name


class AskMembers(Message, frozen=True):
    """Tell who takes part in the election."""

    request: U64
    reply_to: str


class MemberStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node, as it has announced itself; `alive` is what the lease service says of it."""

    node: str
    address: str
    role: str
    epoch: U64
    since_ms: U64
    why: str
    candidate: bool
    alive: bool
    txids: U64


class Members(Message, frozen=True):
    """Answer to `AskMembers`; `reason` is not empty if the service did not answer."""

    request: U64
    members: list[MemberStatus]
    reason: str


class LeaveElection(Message, frozen=True):
    """The node is to end: hand over, or let go of the lease."""


class ElectionLeft(Message, frozen=True):
    """Answer to `LeaveElection`."""
