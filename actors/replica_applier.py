"""The replica applier actor: follows the primary and hands what it gets to SQLite.

Owns the logs and the database files of a replica. It subscribes first and then asks for what it
misses, so nothing can fall between. Never trusts the network: records are decoded, checked against
the head, and logged before SQLite sees them. Always true: the highest epoch seen is on disk, and
what bears a lower one is refused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from litemq import log
from litemq.actors.applying import Applying
from litemq.actors.catching_up import CatchingUp
from litemq.actors.failing import FILE_ERRORS
from litemq.actors.followed import Followed
from litemq.actors.following import Phase, Step
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.actors.opening_logs import OpeningLogs
from litemq.actors.parents import Parents, loop
from litemq.actors.presence import Presence
from litemq.actors.reactor import Reactor
from litemq.actors.relaying import Relaying
from litemq.actors.scrub import Scrub
from litemq.actors.upkeep import Upkeep
from litemq.config import Config, pub_address, request_address
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all
from litemq.transport.wire_values import MAX_LEVELS

NAME = "replica_applier"
HEARTBEAT_S = 0.25
#: a sign of life that says nothing new is given this often, more often if the supervisor is strict
QUIET_S = 1.0
PRESENCE_S = 0.5
#: how long a node that takes over may need to apply the rest of its log
COMPLETE_S = 2.0
COMPLETE_LOOK_S = 0.002


class ReplicaApplier:
    """Follow, log, apply, acknowledge."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._layout = Layout(config.node.data_dir)
        self._log = log.get()
        self._node = config.node.name
        self._endpoints = endpoints = Endpoints(config.run_dir)
        self._reactor = Reactor()
        self._local = Receiver.bind(endpoints.capture, on_garbage=log.strange_message)
        self._answers = Receiver.bind(config.stream.answer_address, on_garbage=self._garbage)
        self._stream: Receiver | None = None
        self._to_fuse = Sender(endpoints.gates) if config.mount.fuse else None
        self._to_supervisor = Sender(endpoints.control)
        self._to_election = Sender(endpoints.election, hwm=100) if config.is_elected else None
        self._helper = HelperThread()
        self._epoch = self._layout.read_epoch()
        self._relaying = Relaying(
            Sender(endpoints.records) if config.stream.relay else None, epoch=self._epoch
        )
        self._followed: dict[str, Followed] = {}
        self._opening = OpeningLogs(
            config, self._layout, self._followed, garbage=self._garbage, opened=self._opened
        )
        self._catching_up = CatchingUp(
            config,
            self._reactor,
            followed=self._followed,
            repaired=self._applied,
            live=self._went_live,
            garbage=self._garbage,
            beat=self._beat,
        )
        self._applying = Applying(
            self._reactor,
            self._followed,
            self._catching_up,
            applied=self._applied,
            appended=self._relaying.appended,
            beat=self._beat,
        )
        self._presence = Presence(
            config, self._reactor, followed=self._followed, send=self._catching_up.send
        )
        self._upkeep = Upkeep(
            config,
            self._reactor,
            self._helper,
            followed=self._followed,
            catching_up=self._catching_up,
            to_fuse=self._to_fuse,
            epoch=lambda: self._epoch,
            all_open=lambda: self._opening.all_open,
            checked=self._look_ready,
            broken=self._opening.anew,
            beat=self._beat,
        )
        self._scrub = Scrub(
            self._reactor,
            every_s=config.verify.every_s,
            followed=self._followed,
            term=lambda: self._epoch,
            admitted=lambda: self._catching_up.admitted,
            differs=self._catching_up.needs_repair,
        )
        self._catching_up.admitted = not config.mount.fuse
        self._catching_up.term = self._epoch
        self._beat_s = 0.0
        self._quiet_s = min(QUIET_S, config.supervisor.hung_after_s / 4)
        self._told: m.ActorAlive | None = None
        self._told_s = 0.0
        self._parents = Parents(config.stream.upstream, heartbeat_s=config.stream.heartbeat_s)
        #: whom the stream comes from, and who is the primary
        self._address = ""
        self._primary = ""
        #: what was said of those that can't be followed, until one can
        self._complained: set[tuple[str, str]] = set()
        self._heard_s = time.monotonic()
        self._presented_s = self._heard_s
        self._connected = False
        self._targets: dict[str, int] | None = None
        self._ready = False
        self._old_epoch_warned = 0
        #: the node goes on, and a log writer with the log
        self._succeeded = False

    # --- life

    def run(self) -> int:
        reactor = self._reactor
        self._layout.create()
        for name in self._layout.database_names():
            self._opening.follow(name)
        reactor.on_message(self._local, self._from_node)
        reactor.on_message(self._answers, self._catching_up.answer)
        reactor.on_readable(self._helper.fd, self._helper.collect)
        reactor.after_events(self._applying.apply)
        reactor.every(HEARTBEAT_S, self._alive)
        reactor.every(PRESENCE_S, self._present)
        self._upkeep.begin()
        self._scrub.begin()
        self._admit()
        if not self._config.is_elected:
            self._follow_primary("", self._config.static_primary)
        reactor.run()
        self._presence.tell(leaving=True)
        for followed in self._followed.values():
            with contextlib.suppress(*FILE_ERRORS):  # whoever opens it next looks at all of it
                followed.drop_repair()
                followed.database.close(clean=not self._succeeded)
        close_all()
        return 0

    def _garbage(self, reason: str, count: int) -> None:
        self._log.warning("dropped a strange message from the network", reason=reason, count=count)

    def _opened(self, followed: Followed) -> None:
        """Its log could not be opened until now."""
        if self._catching_up.admitted:
            self._applying.open(followed)

    def _admit(self) -> None:
        """Ask the mount to let this process write; again until it answers."""
        if self._to_fuse is not None and not self._catching_up.admitted:
            self._to_fuse.send(m.AdmitWriter(os.getpid()))
            self._reactor.later(0.05, self._admit)

    def _alive(self) -> None:
        """Say what is new, and now and then that nothing is."""
        self._relaying.tell()
        self._opening.try_again()
        alive = m.ActorAlive(
            NAME,
            os.getpid(),
            ready=self._ready,
            epoch=self._epoch,
            primary=self._primary,
            databases=[
                *(
                    self._status(each)
                    for each in self._followed.values()
                    if each.database.log.n_pages or each.failing.reason or each.failure
                ),
                *self._opening.status(),
            ],
        )
        now = time.monotonic()
        if alive != self._told or now - self._told_s >= self._quiet_s:
            self._told, self._told_s = alive, now
            self._to_supervisor.send(alive)

    def _beat(self) -> None:
        """A sign of life from within long work."""
        now = time.monotonic()
        if now - self._beat_s > HEARTBEAT_S:
            self._beat_s = now
            self._alive()

    def _status(self, followed: Followed) -> m.DatabaseStatus:
        since_s = followed.behind_since_s
        if since_s is None and not self._connected:
            since_s = self._heard_s
        return followed.status(0.0 if since_s is None else time.monotonic() - since_s)

    # --- from this node

    def _from_node(self, message: m.Message, _payload: list[bytes]) -> None:
        match message:
            case m.WriterAdmitted(incarnation=incarnation):
                if not self._catching_up.admitted:
                    self._catching_up.admitted = True
                    self._upkeep.admitted(incarnation)
                    for followed in self._followed.values():
                        self._applying.open(followed)
            case m.CaptureStarted():
                # a new mount: connections into the old one are dead
                self._catching_up.admitted = False
                self._upkeep.mount_died()
                self._admit()
                if self._primary:
                    self._show_primary()
            case m.PublisherStarted():
                self._relaying.tell()
            case m.Barrier():
                self._barrier(message)
            case m.Follow(node=node, address=address, epoch=epoch):
                if epoch >= self._epoch:
                    # not now: the stream's receiver may be the next to be drained
                    self._reactor.later(0, lambda: self._follow_primary(node, address))
            case m.CompleteLog(primary=True):
                self._succeeded = True
                deadline_s = time.monotonic() + COMPLETE_S
                self._reactor.later(0, lambda: self._follow_primary("", ""))
                self._reactor.later(0, lambda: self._complete(message, deadline_s))
            case _:
                pass

    def _barrier(self, message: m.Barrier) -> None:
        asked = [each for name, each in self._followed.items() if message.database in ("", name)]
        for followed in asked:
            with contextlib.suppress(*FILE_ERRORS):
                followed.database.save()  # who asks may look at page 1
        heads = [
            each.database.wire_applied
            for each in asked
            if each.database.applied.txid and not each.database.lost
        ]
        primary = [each.primary_head for each in asked if each.primary_head is not None]
        answer = m.BarrierReached(message.request, heads, primary)
        if message.reply_to == self._endpoints.records:
            self._relaying.barrier(answer)
            return
        reply = Sender(message.reply_to)
        reply.send(answer)
        reply.close()

    # --- whom to follow

    def _follow_primary(self, node: str, address: str) -> None:
        """The primary is at `address`: hear it, or those of `upstream`; nobody if it is empty and
        there are none.
        """
        moved = address != self._parents.primary
        self._parents.primary = address
        if self._parents.address == self._address:
            if moved and self._config.is_elected:
                self._primary = node
                self._show_primary()
            return
        self._primary = node
        self._turn()
        if self._config.is_elected:
            self._show_primary()

    def _leave(self, reason: str) -> None:
        """Give up the present parent for the next one, if there is one.

        Not now: its stream may be what is being read.
        """
        left = self._address

        def leave() -> None:
            if self._address == left and self._parents.turn_to_next():
                self._log.info(
                    "following another", left=left, reason=reason, address=self._parents.address
                )
                self._turn()

        self._reactor.later(0, leave)

    def _turn(self) -> None:
        """Hear whom it is to be from now on."""
        address = self._address = self._parents.address
        self._connected = False
        self._parents.begin(time.monotonic())
        self._relaying.lost()
        if self._stream is not None:
            self._reactor.drop_receiver(self._stream)
            self._stream.close()
            self._stream = None
        requests = self._catching_up.requests
        if requests is not None:
            requests.close(linger_ms=0)  # it may never take what is left, and our end would wait
            self._catching_up.requests = None
        for followed in self._followed.values():
            if self._config.stream.upstream:
                followed.abandon()
            followed.drop_repair()
            followed.following.done()
        if address:
            self._succeeded = False  # the change of role was given up
            self._catching_up.requests = Sender(request_address(address), hwm=10_000)
            self._stream = Receiver.subscribe(
                pub_address(address), hwm=self._config.stream.hwm * 16, on_garbage=self._garbage
            )
            self._reactor.on_message(self._stream, self._from_stream)
            self._presence.tell()

    def _complete(self, asked: m.CompleteLog, deadline_s: float) -> None:
        """Apply all that is in the log, then say so; or why that can't be done."""
        reason = self._why_incomplete()
        if reason and time.monotonic() < deadline_s:
            self._reactor.later(COMPLETE_LOOK_S, lambda: self._complete(asked, deadline_s))
            return
        if not reason:
            self._upkeep.tell_compared()
            for followed in self._followed.values():
                try:
                    followed.database.complete()
                except FILE_ERRORS as error:
                    reason = f"{followed.database.name} can't be handed over: {error}"
        reply = Sender(asked.reply_to)
        reply.send(m.LogCompleted(reason, asked.epoch))
        reply.close()

    def _why_incomplete(self) -> str:
        for name, followed in self._followed.items():
            if followed.needs_repair:
                return f"{name} needs a repair"
            if followed.database.lost:
                return f"{name} is being compared with its log"
            if not followed.database.caught_up or followed.database.log.pending_bytes:
                held = followed.blocked_by and f"; {followed.blocked_by}"
                return f"{name} can't be applied: {followed.state}{held}"
        return "" if self._catching_up.admitted else "the mount is away"

    # --- from the primary

    def _accept_epoch(self, epoch: int, node: str) -> bool:
        if epoch < self._epoch:
            if self._address != self._parents.primary:
                # a relay: it will hear of the present term, or is left as silent
                if self._is_news("an older epoch"):
                    self._log.info(
                        "the relay is in an older epoch", address=self._address, relay=node,
                        its_epoch=epoch, epoch=self._epoch,
                    )  # fmt: skip
                return False
            if epoch != self._old_epoch_warned:
                self._old_epoch_warned = epoch
                self._log.warning(
                    "refused a primary of an older epoch; if it is the right one, its data "
                    "directory was lost: restore it, or empty this replica's",
                    primary=node, its_epoch=epoch, epoch=self._epoch,
                )  # fmt: skip
            return False
        if epoch > self._epoch:
            self._layout.write_epoch(epoch)
            self._epoch = self._catching_up.term = epoch
            for followed in self._followed.values():
                followed.forget_common()
                if followed.following.phase is not Phase.LIVE:
                    followed.abandon()
            self._relaying.begin_epoch(epoch)
        return True

    def _from_stream(self, message: m.Message, payload: list[bytes]) -> None:
        match message:
            case m.StreamHeartbeat():
                if not self._may_follow(message):
                    return
                if self._accept_epoch(message.epoch, message.node):
                    self._heartbeat(message)
                elif not message.above and not self._config.is_elected:
                    self._catching_up.set_back.older_epoch(message, self._epoch)
            case m.LiveRecords():
                if self._accept_epoch(message.epoch, message.node):
                    self._records_heard(time.monotonic())
                    self._live_records(message, payload)
            case _:
                self._garbage(f"{type(message).__name__} on the stream", 1)

    def _may_follow(self, message: m.StreamHeartbeat) -> bool:
        """Whether its sender is above this node, and not below it."""
        reason = loop(self._node, message.node, message.above, most=MAX_LEVELS)
        if not reason:
            return True
        if self._is_news(reason):
            self._log.warning(
                "a relay can't be followed; look at [stream] upstream of both",
                address=self._address, relay=message.node, above=message.above, reason=reason,
            )  # fmt: skip
        self._leave(reason)
        return False

    def _is_news(self, complaint: str) -> bool:
        known = (self._address, complaint) in self._complained
        self._complained.add((self._address, complaint))
        return not known

    def _heartbeat(self, message: m.StreamHeartbeat) -> None:
        now = time.monotonic()
        self._parents.heard(now, orphan=message.orphan)
        if message.drain:
            self._presence.hurry()
        primary = message.above[0] if message.above else message.node
        if not message.orphan:
            self._heard_s = now
            if not self._connected:
                self._connected = True
                self._complained.clear()
                self._log.info(
                    "following", primary=primary, epoch=message.epoch, node_above=message.node
                )
                self._tell_election(ended=False)
        self._catching_up.primary = primary
        if self._primary != primary:
            self._primary = primary
            self._show_primary()
        if self._targets is None and not message.orphan and not message.settling:
            self._targets = {head.database: head.position.txid for head in message.heads}
        settling = message.settling
        for head in message.heads:
            followed = self._opening.follow(head.database)
            if followed is None:
                settling = True
                continue
            self._compare(followed, head, message, now)
            settling = settling or followed.agreed_epoch != message.epoch
        self._relaying.heard(message, settling=settling)
        self._check_files()
        if message.final:
            self._connected = False
            self._relaying.lost()
            if message.above:
                self._log.info("the relay is leaving", relay=message.node)
            else:
                self._log.info("the primary is leaving", primary=message.node)
                self._tell_election(ended=True)
            self._leave("it is leaving")

    def _records_heard(self, now: float) -> None:
        """Where a slow machine has many of them to apply, they are what is heard."""
        self._parents.sent_records(now)
        if self._connected:
            self._heard_s = now

    def _compare(
        self, followed: Followed, head: m.Head, message: m.StreamHeartbeat, now: float
    ) -> None:
        """Do what follows from the head that was announced."""
        followed.primary_head = head
        followed.note_lag(now)
        if followed.database.unlogged and not self._catching_up.log_rest(followed):
            return
        if followed.needs_repair and followed.following.phase is Phase.LIVE:
            if now >= followed.repair_after_s:
                self._catching_up.begin_repair(followed)
            return
        mine, theirs, relayed = followed.database.log.head, head.position.value, bool(message.above)
        same_term = followed.agreed_epoch == message.epoch
        if relayed and mine.epoch == message.epoch:
            same_term = True  # written in this very term, before this node was restarted
        step = followed.following.head_seen(mine, theirs, now, same_term=same_term, relayed=relayed)
        behind = relayed and same_term and mine.txid > theirs.txid
        behind = behind and followed.following.phase is Phase.LIVE
        if step is Step.REPAIR and behind and followed.database.has_had(theirs):
            return  # a relay that does not get on sets nobody back; one of another history does
        self._take_step(followed, step)
        if (
            step is Step.NOTHING
            and followed.following.phase is Phase.LIVE
            and followed.database.log.trusted
            and (mine.txid, mine.checksum) == (theirs.txid, theirs.checksum)
        ):
            followed.agreed_epoch = message.epoch
            self._relaying.appended(followed)

    def _tell_election(self, *, ended: bool) -> None:
        if self._to_election is not None:
            self._to_election.send(m.StreamSeen(self._epoch, ended))

    def _take_step(self, followed: Followed, step: Step) -> None:
        if step is Step.FETCH:
            self._catching_up.fetch(followed)
        elif step is Step.REPAIR and followed.following.phase is Phase.REPAIRING:
            self._catching_up.begin_repair(followed)
        elif step is Step.REPAIR and followed.primary_head is not None:
            mine, theirs = followed.database.log.head, followed.primary_head.position
            if mine.txid == theirs.txid:
                self._catching_up.diverged(followed, "the histories differ")
            else:
                self._catching_up.begin_repair(followed)

    def _show_primary(self) -> None:
        if self._to_fuse is not None:
            address = self._parents.primary
            self._to_fuse.send(m.ShowPrimary(f"{self._primary or '?'} {address}".rstrip()))

    def _live_records(self, message: m.LiveRecords, payload: list[bytes]) -> None:
        followed = self._opening.follow(message.head.database)
        if followed is None:
            return
        followed.primary_head = message.head
        if followed.database.unlogged:
            return
        last = message.first_txid + len(message.lengths) - 1
        data = payload[0] if payload else b""
        if followed.following.phase is Phase.FETCHING and data:
            followed.stash(message, data)
            return
        step = followed.following.records_seen(
            followed.database.log.head, message.first_txid, last, inline=bool(data)
        )
        if step is Step.TAKE:
            self._catching_up.take(
                followed, message.first_txid, message.lengths, data, message.epoch
            )
        else:
            self._take_step(followed, step)
        followed.note_lag(time.monotonic())

    def _went_live(self, followed: Followed) -> None:
        for message, data in followed.unstash():
            if followed.following.phase is Phase.LIVE:
                self._live_records(message, [data])

    def _applied(self, followed: Followed) -> None:
        self._upkeep.applied(followed)
        self._relaying.appended(followed)
        followed.note_lag(time.monotonic())
        self._presence.applied(followed.database.name)
        self._look_ready()

    def _look_ready(self) -> None:
        if self._ready or self._targets is None or not self._catching_up.admitted:
            return
        if all(
            name in self._followed and self._followed[name].is_at(txid)
            for name, txid in self._targets.items()
        ):
            self._ready = True
            self._relaying.ready()
            self._alive()
            self._log.info("caught up", databases=len(self._targets))

    # --- telling the primary

    def _present(self) -> None:
        now = time.monotonic()
        if now - self._presented_s < 2 * PRESENCE_S:
            self._look_for_silence(now)
        # else: this process was busy or stopped, and what came meanwhile waits to be read
        self._presented_s = now
        self._presence.tell()
        self._look_ready()

    def _look_for_silence(self, now: float) -> None:
        why_leave = self._parents.why_leave(now)
        if self._connected and now - self._heard_s > self._parents.silent_s:
            self._connected = False
            if not why_leave:
                self._log.warning("the primary is silent", primary=self._primary)
            self._relaying.lost()
            self._tell_election(ended=True)
        if why_leave:
            if self._is_news(why_leave):
                self._log.warning(
                    "the node above can't be followed; trying another",
                    address=self._address, reason=why_leave,
                )  # fmt: skip
            self._leave(why_leave)

    # --- after a start

    def _check_files(self) -> None:
        """Compare what a clean end did not leave just so. Before it is ready."""
        if not self._ready and not all(each.database.checked for each in self._followed.values()):
            self._upkeep.look_around()


def make(config: Config) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return ReplicaApplier(config).run
