"""The stream publisher actor: gives every replica what it lacks.

Owns the stream's sockets. It publishes each record once, answers requests from the log on disk and
from committed pages, and keeps no copy of anything: a replica that does not read costs a bounded
queue. Always true: what it sends was appended to the log before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from litemq import log
from litemq.actors.layout import Layout, application_file
from litemq.actors.reactor import Reactor
from litemq.actors.replicas import Replica, Replicas
from litemq.actors.transfers import RecordTransfer, RepairTransfer, Source, Transfer
from litemq.config import Config, reachable
from litemq.errors import LiteMQError
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Publisher, Receiver, Sender, close_all

NAME = "stream_publisher"
HEARTBEAT_S = 0.25
#: a transfer nobody grants credit to is dropped after this
ABANDONED_S = 30.0
MAX_TRANSFERS = 4096
BUSY_RETRY_S = 0.01
DRAIN_LOOK_S = 0.05
#: messages that say where they are to be answered
WITH_ANSWERS = (m.ReplicaAlive, m.RequestRecords, m.RequestRepair, m.AskChecksums)


class StreamPublisher:
    """Heads in, records and pages out."""

    #: whether the logs are those of a replica
    RELAYS = False

    def __init__(self, config: Config, *, epoch: int) -> None:
        self._config = config
        self._epoch = epoch
        self._layout = Layout(config.node.data_dir)
        self._log = log.get()
        self._endpoints = Endpoints(config.run_dir)
        self._reactor = Reactor()
        self._records = Receiver.bind(self._endpoints.records, on_garbage=log.strange_message)
        self._requests = Receiver.bind(
            config.stream.request_address,
            hwm=10_000,
            on_garbage=self._garbage,
            note_peers=True,
        )
        self._stream = Publisher(config.stream.pub_address, hwm=config.stream.hwm)
        self._to_log = Sender(self._endpoints.capture)
        self._to_supervisor = Sender(self._endpoints.control)
        self._to_election = Sender(self._endpoints.election, hwm=100) if config.is_elected else None
        self._heads: dict[str, m.Head] = {}
        self._have_heads = False
        self._replicas = Replicas()
        self._transfers: dict[tuple[str, int], Transfer] = {}
        self._source = Source(
            self._layout,
            self._heads,
            open_path=lambda name: str(application_file(config, name)),
            ask_barrier=self._ask_barrier,
            relays=self.RELAYS,
        )
        self._barrier_count = 0
        self._barriers: dict[int, Transfer] = {}
        self._drain: tuple[m.DrainReplicas, float] | None = None
        self._blocked_until_s = 0.0

    def run(self) -> int:
        reactor = self._reactor
        reactor.on_message(self._records, self._from_node)
        reactor.on_message(self._requests, self._from_replica)
        reactor.after_events(self._pump)
        reactor.every(self._config.stream.heartbeat_s, self._heartbeat)
        reactor.every(HEARTBEAT_S, self._alive)
        self._to_log.send(m.PublisherStarted())
        self._log.info("publishing", address=self._config.stream.pub_address)
        reactor.run()
        self._heartbeat(final=True)
        close_all()
        return 0

    def _garbage(self, reason: str, count: int) -> None:
        self._log.warning("dropped a strange message from the network", reason=reason, count=count)

    def _alive(self) -> None:
        self._replicas.forget_silent()
        self._to_supervisor.send(
            m.ActorAlive(
                NAME,
                os.getpid(),
                ready=self._have_heads,
                epoch=self._epoch,
                replicas=self._replicas.status(self._heads),
            )
        )

    def _heartbeat(self, *, final: bool = False, drain: bool = False) -> None:
        if self._have_heads:
            self._stream.publish(None, self._announcement(final=final, drain=drain))

    def _announcement(self, *, final: bool, drain: bool) -> m.StreamHeartbeat:
        return m.StreamHeartbeat(
            self._config.node.name,
            self._epoch,
            time.time_ns() // 1_000_000,
            list(self._heads.values()),
            final,
            drain,
        )

    # --- from this node

    def _from_node(self, message: m.Message, payload: list[bytes]) -> None:
        match message:
            case m.RecordsLogged(head=head, first_txid=first, lengths=lengths):
                self._raise_heads([head])
                self._stream.publish(
                    head.database,
                    m.LiveRecords(self._config.node.name, self._epoch, head, first, lengths),
                    *payload,
                )
            case m.DatabaseHeads(heads=heads):
                self._heads.update({head.database: head for head in heads})
                if not self._have_heads:
                    self._have_heads = True
                    self._alive()
                self._heartbeat()
            case m.BarrierReached(request=number, heads=heads):
                self._raise_heads(heads)
                transfer = self._barriers.pop(number, None)
                if transfer is not None:
                    transfer.barrier_reached(heads)
            case m.DrainReplicas(deadline_ms=deadline_ms):
                self._drain = (message, time.monotonic() + deadline_ms / 1000)
                self._heartbeat(drain=True)
                self._watch_drain(message)
            case _:
                self._log.warning("unexpected message", message=type(message).__name__)

    def _raise_heads(self, heads: list[m.Head]) -> None:
        """An answer comes through a socket of its own, and a dead log writer's last words through
        another than its successor's: newer records may have overtaken either.
        """
        for head in heads:
            known = self._heads.get(head.database)
            if known is None or known.position.txid < head.position.txid:
                self._heads[head.database] = head

    def _ask_barrier(self, transfer: Transfer) -> None:
        self._barrier_count += 1
        self._barriers[self._barrier_count] = transfer
        self._to_log.send(
            m.Barrier(self._barrier_count, self._endpoints.records, transfer.database)
        )

    def _watch_drain(self, asked: m.DrainReplicas) -> None:
        """Time may be up, or a replica no longer there."""
        self._look_drained()
        if self._drain is not None and self._drain[0] is asked:
            self._reactor.later(DRAIN_LOOK_S, lambda: self._watch_drain(asked))

    def _look_drained(self) -> None:
        if self._drain is None:
            return
        asked, deadline_s = self._drain
        complete = self._replicas.all_have(asked.heads, asked.node)
        if not complete and time.monotonic() < deadline_s:
            return
        self._drain = None
        reply = Sender(asked.reply_to)
        reply.send(m.ReplicasDrained(complete, asked.request))
        reply.close()

    # --- from replicas

    def _from_replica(self, message: m.Message, payload: list[bytes]) -> None:
        if isinstance(message, WITH_ANSWERS):
            # who listens on all addresses is answered at the one that we know it by
            answers = reachable(message.answers, self._requests.peer)
            message = msgspec.structs.replace(message, answers=answers)
        match message:
            case m.ReplicaAlive():
                if self._replicas.heard(message):
                    self._log.info(
                        "replica connected", replica=message.node, address=message.answers
                    )
                self._look_drained()
                if message.leaving:
                    self._log.info("replica left", replica=message.node)
                    self._drop_transfers(message.node)
            case m.RequestRecords(node=node, answers=answers, transfer=number):
                replica = self._replicas.at(node, answers)
                self._start(
                    RecordTransfer(
                        self._source, replica, number, message.database,
                        message.after.value, message.credit,
                    )
                )  # fmt: skip
            case m.AskChecksums(node=node, answers=answers):
                self._tell_checksums(self._replicas.at(node, answers), message)
            case m.EpochSeen():
                self._epoch_seen(message)
            case m.RequestRepair(node=node, answers=answers, transfer=number):
                self._repair(self._replicas.at(node, answers), message, payload)
            case m.GrantCredit(node=node, transfer=number, credit=credit):
                transfer = self._transfers.get((node, number))
                if transfer is not None:
                    transfer.grant(credit)
            case m.AskForHandOver():
                if self._to_election is not None:
                    self._to_election.send(message)
            case m.CancelTransfer(node=node, transfer=number):
                self._transfers.pop((node, number), None)
            case _:
                self._garbage(f"{type(message).__name__} is not for this socket", 1)

    def _tell_checksums(self, replica: Replica, asked: m.AskChecksums) -> None:
        head = self._heads.get(asked.database)
        if head is None:
            replica.send(m.TransferRefused(asked.transfer, asked.database, "no such database"))
            return
        try:
            first, found = self._source.known(asked.database, asked.txids)
        except LiteMQError as error:  # a damaged log: then the tables of epochs have to do
            self._log.info("can't tell checksums", db=asked.database, reason=str(error))
            first, found = head.position.txid, {}
        told = [(txid, f"{checksum:016x}") for txid, checksum in found.items()]
        replica.send(m.Checksums(asked.transfer, asked.database, first, head.position.txid, told))

    def _epoch_seen(self, message: m.EpochSeen) -> None:
        """Of a relay's primary it is the relay itself that tells."""
        if not self.RELAYS and not self._config.is_elected and message.epoch >= self._epoch:
            self._to_supervisor.send(message)

    def _repair(self, replica: Replica, message: m.RequestRepair, payload: list[bytes]) -> None:
        key = (replica.node, message.transfer)
        transfer = self._transfers.get(key)
        if transfer is None:
            transfer = RepairTransfer(
                self._source, replica, message.transfer, message.database, message.page_size,
                message.pages, message.credit,
            )  # fmt: skip
            self._start(transfer)
        if isinstance(transfer, RepairTransfer):
            transfer.add_checksums(
                message.first_page, payload[0] if payload else b"", message.final
            )
            if message.final:
                self._log.info("repairing a replica", replica=replica.node, db=message.database)

    def _start(self, transfer: Transfer) -> None:
        if len(self._transfers) >= MAX_TRANSFERS:
            self._log.warning("too many transfers; refused", replica=transfer.replica.node)
            transfer.refuse("too many transfers at once")
            return
        # a replica fetches a database once at a time: a new request replaces the old one
        for key, other in list(self._transfers.items()):
            if other.replica.node == transfer.replica.node and other.database == transfer.database:
                del self._transfers[key]
        self._transfers[transfer.replica.node, transfer.number] = transfer

    def _drop_transfers(self, node: str) -> None:
        for key in [key for key in self._transfers if key[0] == node]:
            del self._transfers[key]

    def _pump(self) -> bool:
        """Send a piece of every transfer that has credit; true while some may go on at once."""
        if not self._transfers or time.monotonic() < self._blocked_until_s:
            return False
        more = False
        for key, transfer in list(self._transfers.items()):
            try:
                more = transfer.advance() or more
            except LiteMQError as error:
                self._log.warning(
                    "a transfer failed", replica=key[0], db=transfer.database, reason=str(error)
                )
                transfer.refuse(str(error))
            if transfer.busy:
                transfer.busy = False
                self._blocked_until_s = time.monotonic() + BUSY_RETRY_S
                self._reactor.later(BUSY_RETRY_S, lambda: None)
            if transfer.finished or transfer.idle_s > ABANDONED_S:
                self._transfers.pop(key, None)
        return more


def make(config: Config, *, epoch: int) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return StreamPublisher(config, epoch=epoch).run
