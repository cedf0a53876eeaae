"""A small world for the role machine: nodes, a lease service, and everything that can go wrong.

Nothing here chooses: `moves` lists what may happen next, `play` does one of it and then checks what
must always be true. Whoever explores brings the choice. Watchers may stand still for any time, for
nothing forces a move but the passing of time; a node's gate, like the real one, refuses by itself
when its time is over. Messages to and from the lease service are overtaken, doubled and lost;
orders to a node's own actors keep their order, and may be slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from msgspec.structs import replace

from litemq.election import actions as do
from litemq.election import events as on
from litemq.election.members import Holder, Member, Standing
from litemq.election.roles import advance, begin
from litemq.election.rules import Rules
from litemq.election.states import Primary, Promoting, Stopped, accepts_commits, wake_at
from litemq.election.states import State as RoleState

Advance: TypeAlias = Callable[
    [Rules, RoleState, on.Event, float], tuple[RoleState, tuple[do.Action, ...]]
]
T = TypeVar("T")
Move: TypeAlias = tuple[object, ...]
#: (to the service?, node, incarnation of its watcher, event or action, when it was sent)
Message: TypeAlias = tuple[bool, str, int, object, float]

LOCAL = (
    do.AcceptCommits,
    do.FenceCommits,
    do.HoldWrites,
    do.WaitForReplica,
    do.BecomePrimary,
    do.BecomeReplica,
    do.Follow,
)
SLOW = (do.Acquire, do.Renew, do.Release)
ASKED_LOCALLY = (on.Fenced, on.Promoted, on.PromotionFailed, on.Demoted, on.DrainedTo)


class BrokenError(AssertionError):
    """Something that must always be true is not."""


@dataclass
class Node:
    """One node: its watcher's state, and what its other actors do."""

    rules: Rules
    state: RoleState | None = None  # None: killed
    incarnation: int = 0
    disk_epoch: int = 0
    queue: tuple[do.Action, ...] = ()
    #: what the mount accepts: an epoch, and until when
    gate: tuple[int, float] | None = None
    closed: bool = False
    serving: int = 0
    following: Holder | None = None
    drain: do.WaitForReplica | None = None
    #: the epochs of its transactions: equal at one place means equal before it
    log: tuple[int, ...] = ()
    #: transactions put aside because the common history does not have them
    diverged: int = 0
    #: epochs whose term it has left
    left: frozenset[int] = frozenset()
    last_accepted: int = 0

    @property
    def name(self) -> str:
        return self.rules.node

    @property
    def standing(self) -> Standing:
        return Standing(max(self.log, default=0), len(self.log))


@dataclass
class Service:
    """The lease: one holder, known by its process, for `ttl_s` after the last renewal arrived."""

    ttl_s: float
    holder: tuple[str, int] | None = None
    epoch: int = 0  # of the holder
    index: int = 0  # the highest epoch given
    renewed_s: float = 0.0
    last_epoch: int = 0
    successor: str | None = None
    #: an earlier holder may believe in its lease until then
    safe_at_s: float = 0.0
    #: forgets its index when it is emptied: not what the lease promises
    forgets: bool = False


@dataclass
class Budget:
    """How many faults may still happen."""

    doubles: int = 0
    losses: int = 0
    kills: int = 0
    crashes: int = 0
    empties: int = 0
    handoffs: int = 0
    stops: int = 0
    #: departures from fair weather
    turns: int = 0


def _twin(one: T) -> T:
    """A shallow copy; `copy.copy` takes four times as long, and there are millions."""
    other: T = object.__new__(type(one))
    vars(other).update(vars(one))
    return other


def _what_matters(state: RoleState) -> Hashable:
    """All of it but what is only told."""
    known = (state.epoch_seen, state.epoch_ended, state.attempt, state.following, state.away)
    return (state.role, known, state.safe_at_s, state.hold_until_s, state.fit)


@dataclass
class World:
    nodes: dict[str, Node]
    service: Service
    budget: Budget = field(default_factory=Budget)
    now_s: float = 0.0
    tick_s: float = 1.0
    horizon_s: float = 1e9
    pool: tuple[Message, ...] = ()
    members: dict[str, Member] = field(default_factory=dict)
    acceptors: dict[int, str] = field(default_factory=dict)
    #: nodes that cannot reach the service
    cut: frozenset[str] = frozenset()
    #: messages that are late, watchers that stand still, nodes whose other actors are slow
    late: tuple[Message, ...] = ()
    stalled: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()
    unlucky: bool = False  # the actors fail to be a primary's in every 7th epoch
    data: bool = False  # whether commits and replication are moves
    step: Advance = advance

    def copy(self) -> World:
        other = _twin(self)
        other.nodes = {name: _twin(node) for name, node in self.nodes.items()}
        other.service = _twin(self.service)
        other.budget = _twin(self.budget)
        other.members = dict(self.members)
        other.acceptors = dict(self.acceptors)
        return other

    def key(self) -> Hashable:
        """Equal for worlds that have the same future."""
        nodes = tuple(
            (
                node.state and _what_matters(node.state),
                node.incarnation,
                node.disk_epoch,
                node.queue,
                node.gate,
                node.closed,
                node.serving,
                node.following,
                node.drain,
                node.log,
                node.left,
            )
            for node in self.nodes.values()
        )
        service = self.service
        return (
            nodes,
            (service.holder, service.epoch, service.index, service.renewed_s),
            (service.last_epoch, service.successor, service.safe_at_s),
            tuple(vars(self.budget).values()),
            self.now_s,
            frozenset(Counter(self.pool).items()),
            tuple(self.members.values()),
            self.cut,
            (frozenset(Counter(self.late).items()), self.stalled, self.slow),
        )

    # What may happen

    def moves(self) -> list[Move]:
        found: list[Move] = []
        for number, message in enumerate(self.pool):
            if message in self.pool[:number]:
                continue
            found.append(("deliver", number))
            if self.budget.doubles:
                found.append(("double", number))
            if self.budget.losses and not isinstance(message[3], ASKED_LOCALLY):
                found.append(("lose", number))
        for name, node in self.nodes.items():
            if node.state is None:
                found.append(("start", name))
                continue
            if node.queue:
                found.append(("work", name))
            due_s = wake_at(node.rules, node.state, self.now_s)
            if due_s is not None and due_s <= self.now_s:
                found.append(("tick", name))
            if self._drained(node):
                found.append(("drained", name))
            if self.data and self._is_silent(node):
                found.append(("silent", name))
            if self.data:
                found += [("commit", name)] if self.accepts(node) else []
                found += [("replicate", name)] if self._source(node) else []
            found += self._faults(node)
        if self.now_s + self.tick_s <= self.horizon_s:
            found.append(("time", self.tick_s))
        if self.expirable():
            found.append(("expire",))
        if self.budget.empties:
            found.append(("empty",))
        return found

    def _faults(self, node: Node) -> list[Move]:
        found: list[Move] = []
        if self.budget.kills:
            found.append(("kill", node.name))
        if self.budget.crashes:
            found.append(("crash", node.name))
        if self.budget.handoffs:
            found += [("handoff", node.name), ("promote", node.name), ("fit", node.name)]
        if self.budget.stops:
            found.append(("stop", node.name))
        return found

    def expirable(self) -> bool:
        service = self.service
        return service.holder is not None and self.now_s >= service.renewed_s + service.ttl_s

    def accepts(self, node: Node) -> bool:
        """Whether a commit goes through at this moment."""
        return node.gate is not None and not node.closed and self.now_s < node.gate[1]

    def play(self, move: Move) -> None:
        """Do one thing, then check."""
        kind, *details = move
        getattr(self, f"_play_{kind}")(*details)
        self.check()

    def fair_move(self) -> Move | None:
        """What happens next in fair weather, None if only time can pass."""
        for number, (to_service, name, *_) in enumerate(self.pool):
            if to_service or name not in self.stalled:
                return ("deliver", number)
        for name, node in self.nodes.items():
            if node.state is None or isinstance(node.state.role, Stopped):
                continue
            if node.queue and name not in self.slow:
                return ("work", name)
            due_s = wake_at(node.rules, node.state, self.now_s)
            if due_s is not None and due_s <= self.now_s and name not in self.stalled:
                return ("tick", name)
            if self._drained(node):
                return ("drained", name)
            if self.data and self._source(node):
                return ("replicate", name)
        return ("expire",) if self.expirable() else None

    def few_moves(self) -> list[Move]:
        """The fair move and, while the budget lasts, all departures from it."""
        fair = self.fair_move()
        found: list[Move] = []
        if fair is not None:
            found.append(fair)
        else:
            found += [("start", name) for name, node in self.nodes.items() if node.state is None]
            found += [("arrive", number) for number in range(len(self.late))]
            found += [("wake", name) for name in self.stalled]
            found += [("hurry", name) for name in self.slow]
            if self.now_s + self.tick_s <= self.horizon_s:
                found.append(("time", self.tick_s))
        if not self.budget.turns:
            return found
        if fair is not None and fair[0] == "deliver":
            number = fair[1]
            found += [("turn", "double", number), ("turn", "delay", number)]
            if not isinstance(self.pool[int(str(number))][3], ASKED_LOCALLY):
                found.append(("turn", "lose", number))
        if fair is not None and fair[0] == "work":
            found.append(("turn", "slow", fair[1]))
        for name, node in self.nodes.items():
            if node.state is None:
                continue
            found += [("turn", "kill", name), ("turn", "crash", name)]
            if name not in self.stalled:
                found.append(("turn", "stall", name))
            if isinstance(node.state.role, Primary):
                found += [("turn", "handoff", name), ("turn", "stop", name)]
        if self.service.holder is not None:
            found.append(("turn", "empty"))
        return found

    def _play_turn(self, kind: str, *details: object) -> None:
        turns = self.budget.turns - 1
        getattr(self, f"_play_{kind}")(*details)
        self.budget = Budget(turns=turns)

    def _play_delay(self, number: int) -> None:
        self.late = (*self.late, self.pool[number])
        self.pool = self.pool[:number] + self.pool[number + 1 :]

    def _play_arrive(self, number: int) -> None:
        message = self.late[number]
        self.late = self.late[:number] + self.late[number + 1 :]
        self._receive(message)

    def _play_stall(self, name: str) -> None:
        self.stalled |= {name}

    def _play_wake(self, name: str) -> None:
        self.stalled -= {name}

    def _play_slow(self, name: str) -> None:
        self.slow |= {name}

    def _play_hurry(self, name: str) -> None:
        self.slow -= {name}

    # Messages

    def _play_deliver(self, number: int) -> None:
        message = self.pool[number]
        self.pool = self.pool[:number] + self.pool[number + 1 :]
        self._receive(message)

    def _play_double(self, number: int) -> None:
        self.budget.doubles -= 1
        self._receive(self.pool[number])

    def _play_lose(self, number: int) -> None:
        self.budget.losses -= 1
        self.pool = self.pool[:number] + self.pool[number + 1 :]

    def _receive(self, message: Message) -> None:
        to_service, name, incarnation, content, sent_s = message
        node = self.nodes[name]
        if to_service:
            if name in self.cut:
                attempt = content.attempt if isinstance(content, do.Acquire) else 0
                self._send(name, incarnation, on.LeaseUnavailable("cut off", attempt))
            else:
                self._serve(name, incarnation, content, sent_s)
        elif node.state is not None and (
            node.incarnation == incarnation or isinstance(content, ASKED_LOCALLY)
        ):
            if name in self.cut and isinstance(content, on.Granted | on.Renewed | on.LeaseView):
                return
            self.tell(node, content)

    def _send(self, name: str, incarnation: int, event: object) -> None:
        message = (False, name, incarnation, event, self.now_s)
        if not isinstance(event, on.LeaseView) or message not in self.pool:
            self.pool = (*self.pool, message)

    def tell(self, node: Node, event: on.Event) -> None:
        """The watcher of this node learns something."""
        assert node.state is not None
        before = node.state.role
        node.state, actions = self.step(node.rules, node.state, event, self.now_s)
        if isinstance(before, Primary | Promoting) and node.state.role != before:
            epoch = getattr(node.state.role, "epoch", 0)
            after = node.state.role
            if not (isinstance(after, Primary | Promoting) and epoch == before.epoch):
                node.left |= {before.epoch}
        due_s = wake_at(node.rules, node.state, self.now_s)
        if isinstance(event, on.Tick) and due_s is not None and due_s <= self.now_s:
            raise BrokenError(f"{node.name} would spin: {node.state.role}")
        for action in actions:
            self._carry_out(node, action)

    def _carry_out(self, node: Node, action: do.Action) -> None:
        match action:
            case do.PersistEpoch(epoch):
                if epoch <= node.disk_epoch:
                    raise BrokenError(f"{node.name}: epoch {epoch} on disk after {node.disk_epoch}")
                node.disk_epoch = epoch
            case do.AskMembers(attempt):
                if node.name not in self.cut:
                    event = on.MembersSeen(attempt, self._members_for(node))
                    self._send(node.name, node.incarnation, event)
            case do.Announce(lost, fit):
                if node.name not in self.cut:
                    self.members[node.name] = replace(self._member(node), lost=lost, fit=fit)
            case do.LookAtLease():
                if node.name in self.cut:
                    event = on.LeaseUnavailable("cut off")
                else:
                    event = self._view_for(node)
                self._send(node.name, node.incarnation, event)
            case do.Stop():
                self._end_actors(node)
            case _ if isinstance(action, LOCAL):
                if isinstance(action, do.Follow) and action.holder.epoch < node.disk_epoch:
                    raise BrokenError(
                        f"{node.name} follows epoch {action.holder.epoch} after a higher"
                    )
                node.queue = (*node.queue, action)
            case _ if isinstance(action, SLOW):
                if isinstance(action, do.Release) and action.successor is not None:
                    has = self.nodes[action.successor].log
                    if has[: len(node.log)] != node.log:
                        raise BrokenError(f"{action.successor} is named and lacks transactions")
                message = (True, node.name, node.incarnation, action, self.now_s)
                self.pool = (*self.pool, message)

    # The lease service

    def _serve(self, name: str, incarnation: int, request: object, sent_s: float) -> None:
        service, caller = self.service, (name, incarnation)
        held = service.holder == caller
        answer: object
        match request:
            case do.Acquire(attempt, above):
                if service.holder is None:
                    service.index = max(service.index, above) + 1
                    service.holder, service.epoch = caller, service.index
                    service.renewed_s = self.now_s
                    service.successor = None
                    self._show()
                elif not held:
                    self._send(name, incarnation, on.Denied(attempt))
                    return
                service.renewed_s = self.now_s
                wait_s = max(0.0, service.safe_at_s - self.now_s)
                deadline_s = sent_s + service.ttl_s
                answer = on.Granted(attempt, service.epoch, deadline_s, wait_s)
            case do.Renew(epoch):
                if held and epoch == service.epoch:
                    service.renewed_s = self.now_s
                    answer = on.Renewed(epoch, sent_s + service.ttl_s)
                else:
                    answer = on.LeaseLost(epoch, "held no longer")
            case do.Release(epoch, successor):
                former = service.holder is not None and (
                    service.holder[0] == name and service.holder[1] < incarnation
                )
                if (held or former) and epoch == service.epoch:
                    self._free(successor)
                answer = on.Released(epoch)
            case _:
                raise AssertionError(request)
        self._send(name, incarnation, answer)

    def _free(self, successor: str | None) -> None:
        service = self.service
        service.last_epoch, service.holder, service.successor = service.epoch, None, successor
        service.epoch = 0
        self._show()

    def _play_expire(self) -> None:
        self._free(None)

    def _play_empty(self) -> None:
        """Everything in the service is gone, but that it was emptied."""
        self.budget.empties -= 1
        service = self.service
        service.holder, service.epoch, service.last_epoch = None, 0, 0
        service.successor = None
        service.safe_at_s = self.now_s + service.ttl_s
        if service.forgets:
            service.index = 0
        self._show()

    def _show(self) -> None:
        for node in self.nodes.values():
            if node.state is not None and node.name not in self.cut:
                self._send(node.name, node.incarnation, self._view_for(node))

    def _view_for(self, node: Node) -> on.LeaseView:
        service = self.service
        if service.holder is None:
            wait_s = max(0.0, service.safe_at_s - self.now_s)
            return on.LeaseView(
                None, last_epoch=service.last_epoch, successor=service.successor, safe_in_s=wait_s
            )
        name = service.holder[0]
        # an earlier incarnation of the watcher is dead, and known to have been one of this node
        mine = name == node.name and service.holder[1] <= node.incarnation
        return on.LeaseView(Holder(name, f"tcp://{name}", service.epoch), mine=mine)

    def _member(self, node: Node) -> Member:
        known = self.members.get(node.name, Member(node.name, lost=0))
        return replace(
            known,
            standing=node.standing,
            candidate=node.rules.candidate,
            epoch_seen=node.disk_epoch,
        )

    def _members_for(self, asking: Node) -> tuple[Member, ...]:
        alive = [each for each in self.nodes.values() if each.state is not None]
        found = []
        for each in alive:
            known = self.members.get(each.name, Member(each.name, epoch_seen=each.disk_epoch))
            follows = each.following is not None and each.following.node == asking.name
            found.append(replace(known, connected=follows, candidate=each.rules.candidate))
        return tuple(found)

    # The other actors of a node

    def _play_work(self, name: str) -> None:
        node = self.nodes[name]
        action, *rest = node.queue
        node.queue = tuple(rest)
        match action:
            case do.AcceptCommits(epoch, until_s):
                self._accept(node, epoch, until_s)
            case do.FenceCommits(attempt):
                node.gate = None
                node.closed = False
                self._send(name, node.incarnation, on.Fenced(attempt))
            case do.HoldWrites():
                node.closed = True
            case do.WaitForReplica():
                node.drain = action
            case do.BecomePrimary(epoch):
                node.serving, node.following = epoch, None
                fails = self.unlucky and epoch % 7 == 0
                event = on.PromotionFailed(epoch, "no disk") if fails else on.Promoted(epoch)
                self._send(name, node.incarnation, event)
            case do.BecomeReplica(attempt):
                if node.gate is not None and self.now_s < node.gate[1]:
                    raise BrokenError(f"{name} becomes a replica and accepts commits")
                node.serving, node.following, node.drain = 0, None, None
                self._send(name, node.incarnation, on.Demoted(attempt))
            case do.Follow(holder):
                if node.serving:
                    raise BrokenError(f"{name} follows {holder} and serves")
                node.following = holder

    def _accept(self, node: Node, epoch: int, until_s: float) -> None:
        node.gate, node.closed, node.drain = (epoch, until_s), False, None
        if self.now_s >= until_s:
            return
        if self.acceptors.setdefault(epoch, node.name) != node.name:
            raise BrokenError(
                f"{node.name} accepts in epoch {epoch}, as {self.acceptors[epoch]} did"
            )
        if node.serving != epoch:
            raise BrokenError(
                f"{node.name} accepts in epoch {epoch}, its actors are of {node.serving}"
            )
        if epoch < node.last_accepted or epoch > node.disk_epoch:
            raise BrokenError(
                f"{node.name} accepts in {epoch}: {node.last_accepted} {node.disk_epoch}"
            )
        node.last_accepted = epoch

    def _drained(self, node: Node) -> bool:
        if node.drain is None or not node.closed:
            return False
        target = self.nodes[node.drain.target]
        return target.state is not None and target.log == node.log

    def _play_drained(self, name: str) -> None:
        node = self.nodes[name]
        assert node.drain is not None
        event = on.DrainedTo(node.drain.attempt, node.drain.target)
        node.drain = None
        self._send(name, node.incarnation, event)

    def _source(self, node: Node) -> Node | None:
        if node.following is None:
            return None
        source = self.nodes[node.following.node]
        alive = source.state is not None and source.serving == node.following.epoch
        return source if alive and source.log != node.log else None

    def _is_silent(self, node: Node) -> bool:
        if node.following is None:
            return False
        source = self.nodes[node.following.node]
        return source.state is None or source.serving != node.following.epoch

    def _play_silent(self, name: str) -> None:
        node = self.nodes[name]
        assert node.following is not None
        self.tell(node, on.PrimarySilent(node.following.epoch))

    def _play_commit(self, name: str) -> None:
        node = self.nodes[name]
        assert node.gate is not None
        node.log = (*node.log, node.gate[0])

    def _play_replicate(self, name: str) -> None:
        """The next transaction, or a repair that puts aside what the source does not have."""
        node = self.nodes[name]
        source = self._source(node)
        assert source is not None
        held = len(node.log)
        if source.log[:held] == node.log:
            node.log = source.log[: held + 1]
            self._send(name, node.incarnation, on.EpochSeen(source.serving))
            return
        common = 0
        while common < min(held, len(source.log)) and node.log[common] == source.log[common]:
            common += 1
        node.diverged += held - common
        node.log = source.log
        self._send(name, node.incarnation, on.EpochSeen(source.serving))

    # Time and faults

    def _play_time(self, seconds: float) -> None:
        self.now_s += seconds

    def _play_tick(self, name: str) -> None:
        self.tell(self.nodes[name], on.Tick())

    def _play_start(self, name: str) -> None:
        node = self.nodes[name]
        node.incarnation += 1
        node.state, actions = begin(node.disk_epoch, self.now_s, node.incarnation * 1000)
        if name not in self.cut:
            self._send(name, node.incarnation, self._view_for(node))  # it looks at once
        for action in actions:
            self._carry_out(node, action)

    def _play_kill(self, name: str) -> None:
        """The whole node dies; its disk remains."""
        self.budget.kills -= 1
        node = self.nodes[name]
        self._end_actors(node)
        node.state = None

    def _end_actors(self, node: Node) -> None:
        node.queue, node.gate, node.closed = (), None, False
        node.serving, node.following, node.drain = 0, None, None
        self.pool = tuple(
            each
            for each in self.pool
            if each[1] != node.name or not isinstance(each[3], ASKED_LOCALLY)
        )

    def _play_crash(self, name: str) -> None:
        """The watcher alone dies and is started again; what was ordered is still done."""
        self.budget.crashes -= 1
        self._play_start(name)

    def _play_handoff(self, name: str) -> None:
        self.budget.handoffs -= 1
        self.tell(self.nodes[name], on.HandoffRequested(self.budget.handoffs))

    def _play_promote(self, name: str) -> None:
        """Any node asks, or is asked, for the lease."""
        self.budget.handoffs -= 1
        for node in self.nodes.values():
            if node.state is not None:
                self.tell(node, on.PromoteRequested(self.budget.handoffs, name))

    def _play_fit(self, name: str) -> None:
        """A log is found damaged, or whole again."""
        self.budget.handoffs -= 1
        node = self.nodes[name]
        assert node.state is not None
        self.tell(node, on.FitnessChanged(not node.state.fit, "compared"))

    def _play_stop(self, name: str) -> None:
        self.budget.stops -= 1
        self.tell(self.nodes[name], on.StopRequested())

    # What must always be true

    def check(self) -> None:
        """Nobody accepts commits beside another, longer than the lease, or out of its role."""
        accepting = [node for node in self.nodes.values() if self.accepts(node)]
        if len(accepting) > 1:
            raise BrokenError(
                f"two accept commits: {[(each.name, each.gate) for each in accepting]}"
            )
        service = self.service
        for node in accepting:
            assert node.gate is not None
            epoch, until_s = node.gate
            if service.holder == (node.name, node.incarnation) and service.epoch == epoch:
                covered_s = service.renewed_s + service.ttl_s
            elif service.holder is not None and service.holder[0] == node.name:
                covered_s = max(service.safe_at_s, service.renewed_s + service.ttl_s)
            else:
                covered_s = service.safe_at_s
            if until_s > covered_s:
                raise BrokenError(f"{node.name} accepts until {until_s}, covered until {covered_s}")
        for node in self.nodes.values():
            if node.state is None:
                continue
            if node.state.epoch_seen != node.disk_epoch:
                raise BrokenError(
                    f"{node.name} has seen {node.state.epoch_seen}, not {node.disk_epoch}"
                )
            if accepts_commits(node.rules, node.state, self.now_s):
                role = node.state.role
                assert isinstance(role, Primary)
                if role.epoch in node.left:
                    raise BrokenError(f"{node.name} accepts again in epoch {role.epoch}")
            if isinstance(node.state.role, Stopped) and node.gate is not None:
                raise BrokenError(f"{node.name} has stopped and accepts")

    # Fair weather

    def settle(self, seconds: float) -> None:
        """No more faults for so long: everything arrives, in order and at once."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self._calm()
            due = [self.service.renewed_s + self.service.ttl_s] if self.service.holder else []
            for node in self.nodes.values():
                if node.state is not None:
                    at_s = wake_at(node.rules, node.state, self.now_s)
                    due += [at_s] if at_s is not None else []
            next_s = min([each for each in due if each > self.now_s], default=end_s)
            self.play(("time", min(next_s, end_s) - self.now_s))
        self._calm()

    def _calm(self) -> None:
        for name, node in self.nodes.items():
            if node.state is None:
                self.play(("start", name))
        for _ in range(100_000):
            move = self.fair_move()
            if move is None:
                return
            self.play(move)
        raise BrokenError("the nodes talk without end")


def new_world(
    names: str = "ab",
    *,
    ttl_s: float = 2.0,
    step: Advance = advance,
    data: bool = False,
    rules: Rules | None = None,
    **limits: float,
) -> World:
    """Nodes that have never run."""
    base = rules or Rules("", **limits)  # type: ignore[arg-type]
    nodes = {name: Node(replace(base, node=name)) for name in names}
    return World(nodes, Service(ttl_s), step=step, data=data)


def primaries(world: World) -> list[Node]:
    """The nodes that accept commits at this moment."""
    return [node for node in world.nodes.values() if world.accepts(node)]
