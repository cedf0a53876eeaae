"""The stream publisher of a relay: passes on what this replica's applier has in its log.

Owns the stream's sockets as a primary's publisher does, and has no epoch of its own: it bears that
of the primary above it. Always true: it announces only what the applier has told it, and what it
sends is read from the log; while the applier says nothing, it calls itself an orphan.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from litemq.actors.parents import SILENT_S
from litemq.actors.stream_publisher import StreamPublisher
from litemq.config import Config
from litemq.errors import LiteMQError
from litemq.transport import messages as m
from litemq.txlog import ltx


class RelayPublisher(StreamPublisher):
    """Heads of the applier in, records of the log out."""

    RELAYS = True

    def __init__(self, config: Config) -> None:
        super().__init__(config, epoch=0)
        self._above: list[str] = []
        self._orphan = True
        self._settling = True
        self._told_s = time.monotonic()
        #: the heads that children have been told of
        self._sent: dict[str, m.Head] = {}

    def _announcement(self, *, final: bool, drain: bool) -> m.StreamHeartbeat:
        return msgspec.structs.replace(
            super()._announcement(final=final, drain=drain),
            above=self._above,
            orphan=self._orphan or time.monotonic() - self._told_s > SILENT_S,
            settling=self._settling,
        )

    def _from_node(self, message: m.Message, payload: list[bytes]) -> None:  # noqa: ARG002 - none
        match message:
            case m.RelayState():
                self._state(message)
            case m.DatabaseHeads(heads=heads):
                self._told_s = time.monotonic()
                for head in (
                    heads if self._have_heads else []
                ):  # else it is not known whose they are
                    self._pass_on(head)
            case m.BarrierReached(request=number, heads=shown):
                transfer = self._barriers.pop(number, None)
                if transfer is not None:
                    transfer.barrier_reached(shown)
            case _:
                self._log.warning("unexpected message", message=type(message).__name__)

    def _state(self, state: m.RelayState) -> None:
        self._told_s = time.monotonic()
        if not state.ready:
            self._orphan = True  # the applier was started anew: what it said before still stands
            return
        now = (state.epoch, state.above, state.orphan, state.settling)
        news = now != (self._epoch, self._above, self._orphan, self._settling)
        self._epoch, self._above, self._orphan, self._settling = now
        for name in self._heads.keys() - {head.database for head in state.heads}:
            del self._heads[name]
        for head in state.heads:
            self._pass_on(head)
        if not self._have_heads:
            self._have_heads = True
            self._alive()
        if news:
            self._heartbeat()

    def _pass_on(self, head: m.Head) -> None:
        """Announce a head, with its records if they are few and of this epoch."""
        before = self._sent.get(head.database)
        self._heads[head.database] = self._sent[head.database] = head
        if before is None or head.position.txid <= before.position.txid:
            return  # the next heartbeat tells
        first, records = head.position.txid, self._records_between(before, head)
        if records:
            first = before.position.txid + 1
        self._stream.publish(
            head.database,
            m.LiveRecords(
                self._config.node.name, self._epoch, head, first,
                [len(record) for record in records] or [0],
            ),
            *([b"".join(records)] if records else []),
        )  # fmt: skip

    def _records_between(self, before: m.Head, head: m.Head) -> list[bytes]:
        """All of them; none if they are better asked for."""
        if not before.position.epoch == head.position.epoch == self._epoch:
            return []  # a live record bears the epoch of the stream
        first, count = before.position.txid + 1, head.position.txid - before.position.txid
        limit = self._config.stream.inline_bytes
        try:
            records = self._source.records(head.database, first, limit, count)
            follows = ltx.peek(records[0]).pre_checksum == before.position.value.checksum
        except LiteMQError:
            return []  # who asks is told
        whole = len(records) == count and sum(map(len, records)) <= limit
        return records if whole and follows else []


def make(config: Config) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return RelayPublisher(config).run
