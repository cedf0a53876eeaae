"""To and from the supervisor: signs of life, roles, and the status that people read."""

from __future__ import annotations

import msgspec

from litemq.transport.wire_values import U64, Count, Hex64, Message, Name


class DatabaseStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One database as its node has it."""

    name: Name
    txid: U64
    checksum: Hex64
    epoch: U64
    page_size: Count
    pages: Count
    lag_ms: U64
    state: str = "ok"
    #: why it is failing, if it is
    reason: str = ""
    #: when its file was last compared with the log from end to end; 0 for never
    verified_ms: U64 = 0


class ReplicaDatabase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far one replica is with one database."""

    name: Name
    txid: U64
    lag_txids: U64


class ReplicaStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica as its primary sees it."""

    node: Name
    connected: bool
    databases: list[ReplicaDatabase]


class ActorAlive(Message, frozen=True):
    """An actor's heartbeat to its supervisor, with what `status` shows of it."""

    actor: Name
    pid: Count
    ready: bool
    epoch: U64 = 0
    primary: str | None = None
    databases: list[DatabaseStatus] | None = None
    replicas: list[ReplicaStatus] | None = None


class ChangeRole(Message, frozen=True):
    """Be a primary of this epoch, or a replica of the primary named (of none while it is empty)."""

    primary: bool
    epoch: U64
    node: str
    address: str
    why: str


class RoleChanged(Message, frozen=True):
    """Answer to `ChangeRole`; `reason` is empty, or says why the role has not changed."""

    primary: bool
    epoch: U64
    reason: str


class AskStatus(Message, frozen=True):
    """The CLI asks for the node's status."""

    request: U64
    reply_to: str


class ActorStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One actor of a node."""

    name: str
    pid: Count
    state: str
    restarts: Count
    rss_bytes: U64


class NodeStatus(Message, frozen=True):
    """Answer to `AskStatus`."""

    request: U64
    node: Name
    role: str
    epoch: U64
    primary: str
    ready: bool
    since_ms: U64
    why: str
    databases: list[DatabaseStatus]
    replicas: list[ReplicaStatus]
    actors: list[ActorStatus]
