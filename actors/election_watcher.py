"""The election watcher actor: asks the lease service and the role machine, does what they say.

Decides nothing: `election/roles.py` does. Never blocks: the lease service is spoken to in two
threads, one that waits for changes and one that does everything else. Always true: what the machine
orders of the other actors is done in its order, and the next begins when the one before is done.

When the node dies around it, it lives on for a moment: it gives the lease back once nothing of the
node can accept commits, so that a successor need not wait for the lease to run out.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from litemq import log
from litemq.actors import lifeline
from litemq.actors.failing import BLOCKED, FAILING
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.actors.lease_service import LeaseService
from litemq.actors.orders import Order, Orders, Wait
from litemq.actors.reactor import Reactor
from litemq.config import Config, request_address
from litemq.election import actions as a
from litemq.election import clock, roles, states
from litemq.election import events as e
from litemq.election.members import Holder
from litemq.election.opening import open_lease
from litemq.election.rules import Rules
from litemq.fs.kernel_cache import CLOCK_S, LEASED_WRITES_S
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all

NAME = "election_watcher"
HEARTBEAT_S = 0.25
#: the node's own state is asked for this often
STATUS_S = 0.2
#: of the time after which the lease service takes a node that says nothing for dead
ANNOUNCE_PART = 0.7
#: nanoseconds on the boot clock that never come: a lease that does not end
NEVER_NS = 1 << 62
#: whoever was asked to hand over has this long
TAKE_OVER_S = 10.0
ASK_AGAIN_S = 0.5
#: a successor has this long for what was committed while writers were being stopped
LAST_DRAIN_S = 1.0
#: and so long to begin before its predecessor becomes a replica or stops: until then there is
#: nobody to follow, and on a machine that they share it would only take its processor time
SUCCESSOR_FIRST_S = 0.1
#: without a sign of life for so long, and for twice what the supervisor allows, the kernel ends it:
#: when that is dead, nobody else would
SILENT_S = 30.0

#: whether a message is what is waited for
Answered = Callable[[m.Message], bool | Wait]


class ElectionWatcher:
    """One node's part in the election."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._layout = Layout(config.node.data_dir)
        self._log = log.get()
        self._endpoints = Endpoints(config.run_dir)
        self._reactor = Reactor()
        self._inbox = Receiver.bind(self._endpoints.election, on_garbage=log.strange_message)
        self._to_supervisor = Sender(self._endpoints.control)
        self._to_fuse = Sender(self._endpoints.gates) if config.mount.fuse else None
        self._to_log = Sender(self._endpoints.capture)
        self._service = LeaseService(
            open_lease(config, self._layout.read_cluster(), lifeline.start()),
            self._layout,
            HelperThread(),
            HelperThread(),
            happened=self._happened,
        )
        self._rules = Rules(
            node=config.node.name,
            candidate=config.election.candidate,
            renew_s=min(0.25, self._service.pace_s),
            look_s=0.5,
        )
        self._orders = Orders(self._reactor)
        #: who had everything when it was asked last
        self._successor = ""
        #: the lease was released for another node
        self._yields = False
        self._tick_s = float("inf")
        self._holder: Holder | None = None
        self._asked: dict[int, tuple[int, str]] = {}
        self._requests = 0
        #: the request of this node to be the primary, until it is
        self._wanted = 0
        #: why this node could not serve now, "" if it could
        self._unfit = ""
        self._node: m.NodeStatus | None = None
        self._leaving = False
        #: the epoch whose end was seen last
        self._lost = 0
        self._clocks = clock.read()
        #: the node has died
        self._orphaned = False
        self._state, first = roles.begin(
            self._layout.read_epoch(), clock.now_s(), time.time_ns() // 1000
        )
        self._first = first

    # --- life

    def run(self) -> int:
        lifeline.outlive()
        reactor = self._reactor
        reactor.on_message(self._inbox, self._handle)
        for thread in self._service.threads:
            reactor.on_readable(thread.fd, thread.collect)
        reactor.every(HEARTBEAT_S, self._alive)
        reactor.every(STATUS_S, self._ask_status)
        reactor.every(self._service.pace_s * ANNOUNCE_PART, self._announce)
        self._service.watch()
        self._carry_out(self._first)
        reactor.run(
            {
                signal.SIGTERM: lambda _: reactor.stop(),
                lifeline.ORPHANED: lambda _: self._be_orphaned(),
            }
        )
        if self._orphaned:
            self._settle_estate()
            os._exit(0)  # sockets and their files may be those of a new start already
        self._service.close()
        close_all()
        return 0

    def _be_orphaned(self) -> None:
        """Nothing is renewed from here on, and the end is near, come what may."""
        if not self._orphaned:
            self._orphaned = True
            lifeline.end_after(self._legacy_s)
            self._reactor.stop()

    @property
    def _legacy_s(self) -> float:
        return min(lifeline.LONGEST_S, self._config.election.consul.ttl_s)

    def _settle_estate(self) -> None:
        lifeline.end_after(self._legacy_s)  # again: a sign of life may just have set it
        if lifeline.has_ended(self._legacy_s):
            if self._config.caches_writes:
                time.sleep(LEASED_WRITES_S + CLOCK_S)  # its programs go on in the kernel's cache
            self._service.bequeath()
            self._log.info("the node has died; its part in the election is ended")

    def _alive(self) -> None:
        holder = self._holder
        lifeline.end_after(max(SILENT_S, 2 * self._config.supervisor.hung_after_s))
        before, self._clocks = self._clocks, clock.read()
        if told := clock.jump(before, self._clocks):
            self._log.warning("the clock jumped", told=told)
        self._to_supervisor.send(
            m.ActorAlive(
                NAME,
                os.getpid(),
                ready=True,
                epoch=self._state.epoch_seen,
                primary="" if holder is None else f"{holder.node} {holder.address}",
            )
        )
        self._follow()

    def _ask_status(self) -> None:
        self._to_supervisor.send(m.AskStatus(0, self._endpoints.election))

    # --- the machine

    def _happened(self, event: e.Event) -> None:
        """Something was learned: ask the machine what to do."""
        if isinstance(event, e.LeaseView):
            self._holder = event.holder
        before = self._state.role
        self._state, actions = roles.advance(self._rules, self._state, event, clock.now_s())
        if type(before) is not type(self._state.role):
            self._log.info(
                "election", state=type(self._state.role).__name__.lower(), why=self._state.why
            )
        self._carry_out(actions)
        if self._wanted and isinstance(self._state.role, states.Primary):
            self._answer(self._wanted, "")
            self._wanted = 0
        self._set_timer()

    def _set_timer(self) -> None:
        now = clock.now_s()
        due_s = states.wake_at(self._rules, self._state, now)
        if due_s is None or due_s == float("inf") or self._tick_s <= due_s:
            return
        self._tick_s = due_s

        def tick() -> None:
            if self._tick_s == due_s:
                self._tick_s = float("inf")
            self._happened(e.Tick())

        self._reactor.later(max(due_s - now, 0.001), tick)

    def _carry_out(self, actions: tuple[a.Action, ...]) -> None:
        for action in actions:
            self._one(action)

    def _one(self, action: a.Action) -> None:
        match action:
            case a.PersistEpoch(epoch):
                self._layout.write_epoch(epoch)
            case a.LookAtLease():
                self._service.look()
            case a.Acquire(attempt, above):
                self._service.acquire(attempt, above)
            case a.Renew(epoch):
                self._service.renew(epoch)
            case a.Release(epoch, successor):
                self._yields = successor is not None
                self._service.release(epoch, successor or "")
            case a.Announce(lost):
                self._lost = lost
                self._announce()
            case a.AskMembers(attempt):
                connected = set() if self._node is None else {
                    each.node for each in self._node.replicas if each.connected
                }  # fmt: skip
                self._service.members(attempt, connected)
            case a.AskHandoff(request, primary):
                if self._wanted:
                    self._answer(self._wanted, "asked again")
                self._wanted = request
                self._ask_for_hand_over(request, primary, clock.now_s() + TAKE_OVER_S)
            case a.HandoffEnded(request, refused):
                self._answer(request, refused or "")
            case a.Tell(text, warn):
                if warn:
                    self._log.warning("the election needs attention", told=text)
                else:
                    self._log.info("election", told=text)
            case a.Stop():
                self._after_successor(partial(self._to_supervisor.send, m.ElectionLeft()))
            case a.FenceCommits():
                # what was to be accepted is of no use any more
                voids = (a.AcceptCommits, a.HoldWrites, a.WaitForReplica, a.BecomePrimary)
                self._orders.add(self._order(action), voids=voids)
            case _:
                self._orders.add(self._order(action))

    def _order(self, action: a.Action) -> Order:
        return Order(type(action), lambda: self._give(action))

    def _ask_for_hand_over(self, request: int, primary: Holder, deadline_s: float) -> None:
        """Again and again: the answer is the lease; it may not know yet that this node follows."""
        if self._wanted != request:
            return
        if clock.now_s() > deadline_s:
            self._wanted = 0
            unfit = self._unfit and f"; here {self._unfit}"
            self._answer(request, f"{primary.node} does not hand over; its log tells why{unfit}")
            return
        sender = Sender(request_address(primary.address))
        sender.send(m.AskForHandOver(self._config.node.name))
        sender.close()
        self._reactor.later(
            ASK_AGAIN_S, partial(self._ask_for_hand_over, request, primary, deadline_s)
        )

    def _announce(self) -> None:
        """Again and again: positions change, and the service forgets who says nothing."""
        self._service.announce(
            lost=self._lost,
            fit=self._state.fit,
            unfit=self._unfit,
            role=type(self._state.role).__name__.lower(),
            epoch=self._state.epoch_seen,
            why=self._state.why,
            candidate=self._rules.candidate,
        )

    # --- orders to the other actors, one after the other

    def _give(self, action: a.Action) -> Wait | None:
        """Give one order; what to wait for, if it is not done at once."""
        match action:
            case a.AcceptCommits(epoch, until_s):
                until_ns = NEVER_NS if until_s == float("inf") else int(until_s * 1e9)
                self._send_fuse(m.AcceptCommits(epoch, until_ns))
            case a.HoldWrites(epoch):
                self._send_fuse(m.HoldWrites(epoch))
            case a.FenceCommits(attempt):
                if self._to_fuse is not None:
                    question = m.FenceWrites(self._endpoints.election, attempt)
                    return Wait(partial(self._send_fuse, question), self._fenced(attempt))
                self._happened(e.Fenced(attempt))
            case a.WaitForReplica(attempt, target, until_s):
                self._successor = ""

                def drained() -> None:
                    self._successor = target
                    self._happened(e.DrainedTo(attempt, target))
                    if not isinstance(self._state.role, states.Demoting):
                        self._successor = ""  # the hand-over was refused

                return self._drain(attempt, target, until_s, drained, lambda: None)
            case a.BecomePrimary(epoch):
                wanted = m.ChangeRole(
                    True, epoch, self._config.node.name, self._config.stream.listen,
                    self._state.why,
                )  # fmt: skip
                return self._change_role(wanted, self._promoted(epoch))
            case a.BecomeReplica(attempt):
                self._holder = None
                wanted = m.ChangeRole(False, self._state.epoch_seen, "", "", self._state.why)
                return self._change_role(wanted, self._demoted(attempt))
            case a.Follow(holder):
                self._holder = holder
                self._follow()
            case _:
                raise AssertionError(f"nobody carries out {action}")
        return None

    def _send_fuse(self, message: m.Message) -> None:
        if self._to_fuse is not None:
            self._to_fuse.send(message)

    def _change_role(self, wanted: m.ChangeRole, answered: Answered) -> Wait:
        send = partial(self._to_supervisor.send, wanted)
        return Wait(partial(self._after_successor, send), answered, repeat=False)

    def _after_successor(self, call: Callable[[], object]) -> None:
        """Call; if the lease was released for another node, when that has had its moment."""
        pause_s, self._yields = SUCCESSOR_FIRST_S if self._yields else 0.0, False
        self._reactor.later(pause_s, call)

    def _follow(self) -> None:
        """Told again and again: the applier may have been started anew."""
        holder = self._state.following
        if holder is not None and isinstance(self._state.role, states.Replica | states.Candidate):
            self._to_log.send(m.Follow(holder.node, holder.address, holder.epoch))

    def _fenced(self, attempt: int) -> Answered:
        def answered(got: m.Message) -> bool | Wait:
            if not (isinstance(got, m.WritesFenced) and got.attempt == attempt):
                return False
            successor, self._successor = self._successor, ""
            done = partial(self._happened, e.Fenced(attempt))
            if not successor:
                done()
                return True
            # what had begun could end while the successor was waited for
            until_s = clock.now_s() + LAST_DRAIN_S
            return self._drain(attempt, successor, until_s, done, done)

        return answered

    def _promoted(self, epoch: int) -> Answered:
        def answered(got: m.Message) -> bool:
            if not (isinstance(got, m.RoleChanged) and got.primary and got.epoch == epoch):
                return False
            failed = e.PromotionFailed(epoch, got.reason)
            self._happened(failed if got.reason else e.Promoted(epoch))
            return True

        return answered

    def _demoted(self, attempt: int) -> Answered:
        def answered(got: m.Message) -> bool:
            if not (isinstance(got, m.RoleChanged) and not got.primary):
                return False
            self._happened(e.Demoted(attempt))
            return True

        return answered

    def _drain(
        self,
        attempt: int,
        target: str,
        until_s: float,
        done: Callable[[], None],
        late: Callable[[], None],
    ) -> Wait:
        """Have everything that was committed in the log, then wait until the target shows it."""

        def logged(got: m.Message) -> bool | Wait:
            if not (isinstance(got, m.BarrierReached) and got.request == attempt):
                return False
            heads = got.heads

            def ask() -> None:
                left_ms = max(int((until_s - clock.now_s()) * 1000), 0)
                to_publisher = Sender(self._endpoints.records)
                to_publisher.send(
                    m.DrainReplicas(self._endpoints.election, left_ms, heads, target, attempt)
                )
                to_publisher.close()

            return Wait(ask, shown, until_s, given_up=late)

        def shown(got: m.Message) -> bool:
            if not (isinstance(got, m.ReplicasDrained) and got.request == attempt):
                return False
            if not got.complete:
                return False  # time is up
            done()
            return True

        question = m.Barrier(attempt, self._endpoints.election)
        return Wait(partial(self._to_log.send, question), logged, until_s, given_up=late)

    # --- messages

    def _handle(self, message: m.Message, _payload: list[bytes]) -> None:
        if self._orders.answer(message):
            return
        match message:
            case m.NodeStatus():
                self._node = message
                positions = {
                    each.name: (each.epoch, each.txid) for each in message.databases if each.txid
                }
                self._service.positions = positions
                self._unfit = why_unfit(message)
                self._happened(e.FitnessChanged(not self._unfit, self._unfit))
            case m.StreamSeen(epoch=epoch, ended=ended):
                self._happened(e.PrimarySilent(epoch) if ended else e.EpochSeen(epoch))
            case m.HandOver(request=request, reply_to=reply_to, target=target):
                self._happened(e.HandoffRequested(self._ask(request, reply_to), target or None))
            case m.TakeOver(request=request, reply_to=reply_to):
                number = self._ask(request, reply_to)
                self._happened(e.PromoteRequested(number, self._config.node.name))
            case m.AskForHandOver(node=node):
                self._happened(e.PromoteRequested(self._ask(0, ""), node))
            case m.AskMembers(request=request, reply_to=reply_to):
                self._service.list_members(
                    lambda answer: self._tell_members(request, reply_to, answer)
                )
            case m.LeaveElection():
                if not self._leaving:
                    self._leaving = True
                    self._happened(e.StopRequested())
            case _:
                pass

    def _ask(self, request: int, reply_to: str) -> int:
        self._requests += 1
        self._asked[self._requests] = (request, reply_to)
        return self._requests

    def _answer(self, number: int, refused: str) -> None:
        if number not in self._asked:
            return
        request, reply_to = self._asked.pop(number)
        if reply_to:
            reply = Sender(reply_to)
            reply.send(m.HandedOver(request, refused))
            reply.close()
        elif refused:
            self._log.info("election", told=f"no hand-over: {refused}")

    def _tell_members(
        self, request: int, reply_to: str, answer: tuple[list[m.MemberStatus], str]
    ) -> None:
        reply = Sender(reply_to)
        reply.send(m.Members(request, *answer))
        reply.close()


def why_unfit(node: m.NodeStatus) -> str:
    """The first database that keeps the node from being the primary, and why; "" if none does."""
    for each in node.databases:
        blocked = each.state == BLOCKED and node.role != "primary"
        if blocked or each.state not in ("ok", FAILING, BLOCKED):
            return f"{each.name} is {each.state}" + (each.reason and f": {each.reason}")
    return ""


def make(config: Config) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return ElectionWatcher(config).run
