"""The replicas a publisher knows: where they are, whether they are there, how far they are."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from litemq.errors import LiteMQError
from litemq.transport.messages import Head, Message, ReplicaAlive, ReplicaDatabase, ReplicaStatus
from litemq.transport.sockets import Sender

#: a replica that has not been heard for this long is not connected
SILENT_S = 3.0
#: and is forgotten after this
FORGOTTEN_S = 3600.0
ANSWER_HWM = 64
MAX_REPLICAS = 1024


@dataclass(slots=True)
class Replica:
    """One replica; the socket to it is made when it first asks for something."""

    node: str
    answers: str
    heard_s: float = 0.0
    connected: bool = False
    applied: dict[str, Head] = field(default_factory=dict)
    _sender: Sender | None = None

    def send(self, message: Message, *payload: bytes) -> bool:
        """False when its queue is full, or its address none."""
        if self._sender is None:
            try:
                self._sender = Sender(self.answers, hwm=ANSWER_HWM)
            except LiteMQError:
                return False
        return self._sender.send(message, *payload)

    def move(self, answers: str) -> None:
        """It listens somewhere else now."""
        if answers != self.answers:
            self.close()
            self.answers = answers

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close(linger_ms=0)
            self._sender = None


class Replicas:
    """All replicas by node name."""

    def __init__(self) -> None:
        self._by_node: dict[str, Replica] = {}

    def at(self, node: str, answers: str) -> Replica:
        """The replica of that name, which listens at `answers`."""
        replica = self._by_node.get(node)
        if replica is None:
            if len(self._by_node) >= MAX_REPLICAS:
                self._forget_longest_silent()
            replica = self._by_node[node] = Replica(node, answers)
        replica.move(answers)
        replica.heard_s = time.monotonic()
        return replica

    def heard(self, message: ReplicaAlive) -> bool:
        """Take in a sign of life; true if the replica was not connected before."""
        replica = self.at(message.node, message.answers)
        was_connected = replica.connected
        replica.connected = not message.leaving
        replica.applied.update({head.database: head for head in message.applied})
        if message.leaving:
            replica.close()
        return replica.connected and not was_connected

    def forget_silent(self) -> None:
        now = time.monotonic()
        for replica in list(self._by_node.values()):
            silent_s = now - replica.heard_s
            if silent_s > SILENT_S:
                replica.connected = False
            if silent_s > FORGOTTEN_S:
                replica.close()
                del self._by_node[replica.node]

    def _forget_longest_silent(self) -> None:
        oldest = min(self._by_node.values(), key=lambda replica: replica.heard_s)
        oldest.close()
        del self._by_node[oldest.node]

    def all_have(self, heads: Iterable[Head], node: str = "") -> bool:
        """Whether `node`, or every connected replica, shows every head to its readers."""
        self.forget_silent()
        asked = [
            replica
            for replica in self._by_node.values()
            if replica.connected and node in ("", replica.node)
        ]
        return (bool(asked) or not node) and all(
            (applied := replica.applied.get(head.database)) is not None
            and applied.position.txid >= head.position.txid
            for replica in asked
            for head in heads
        )

    def status(self, heads: dict[str, Head]) -> list[ReplicaStatus]:
        return [
            ReplicaStatus(replica.node, replica.connected, _databases(replica, heads))
            for replica in sorted(self._by_node.values(), key=lambda each: each.node)
        ]


def _databases(replica: Replica, heads: dict[str, Head]) -> list[ReplicaDatabase]:
    found = []
    for head in heads.values():
        if not head.pages:
            continue
        applied = replica.applied.get(head.database)
        txid = 0 if applied is None else applied.position.txid
        found.append(ReplicaDatabase(head.database, txid, max(0, head.position.txid - txid)))
    return found
