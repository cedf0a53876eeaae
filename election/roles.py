"""The role machine: `(state, event, now) -> (state, actions)`. Pure: no clock, no I/O, no chance.

It is total: every event in every state has an answer, often none. What it decides in one step, the
actions, is carried out in order. Always true: commits are refused before anything else once the
lease may have ended; an epoch is on disk before it is served or followed; a node serves only in an
epoch above all it had seen before, and only when its actors have confirmed that very epoch.
"""

from __future__ import annotations

from msgspec.structs import replace

from litemq.election import handover, leaving, serving, standby
from litemq.election.actions import Action, Announce, Tell
from litemq.election.candidacy import highest_epoch
from litemq.election.events import (
    Demoted,
    Denied,
    DrainedTo,
    EpochSeen,
    Event,
    Fenced,
    FitnessChanged,
    Granted,
    HandoffRequested,
    LeaseLost,
    LeaseUnavailable,
    LeaseView,
    MembersSeen,
    PrimarySilent,
    Promoted,
    PromoteRequested,
    PromotionFailed,
    Released,
    Renewed,
    RenewFailed,
    StopRequested,
    Tick,
)
from litemq.election.rules import Rules
from litemq.election.states import (
    Candidate,
    Demoting,
    Leaving,
    Primary,
    Promoting,
    Replica,
    Search,
    State,
    Stopped,
)
from litemq.election.turns import Step
from litemq.txlog.ids import Epoch


def begin(epoch_seen: Epoch, now_s: float, attempt: int) -> tuple[State, tuple[Action, ...]]:
    """The state of a node that starts and its first actions; `epoch_seen` is the one on disk.

    Attempts are counted from `attempt`, which is far from those of any earlier run: the other
    actors may outlive this one, and their answers to it are not meant for the next.
    """
    return leaving.begin(epoch_seen, now_s, attempt)


def advance(
    rules: Rules, state: State, event: Event, now_s: float
) -> tuple[State, tuple[Action, ...]]:
    """What becomes of `state` by `event` at `now_s`, seconds on the boot clock."""
    step = Step(rules, state, now_s)
    serving.fence_in_time(step)
    _note(step, event)
    _answer(step, event)
    serving.depose_if_outdated(step)
    leaving.let_go_in_time(step)
    return step.state, tuple(step.actions)


def _note(step: Step, event: Event) -> None:
    """What is worth knowing in every role."""
    match event:
        case EpochSeen(epoch):
            if step.see(epoch) and isinstance(step.state.role, Replica):
                step.look()  # somebody was elected
        case MembersSeen(members=members):
            step.see(highest_epoch(members))
        case FitnessChanged(fit, reason) if fit != step.state.fit:
            step.state = replace(step.state, fit=fit)
            step.do(Tell(f"log {'fit' if fit else 'not fit'}: {reason}", warn=not fit))
            if isinstance(step.state.role, Candidate):
                step.do(Announce(step.state.role.lost, fit))
        case LeaseUnavailable(reason) | RenewFailed(reason=reason):
            if not step.state.away:
                step.state = replace(step.state, away=True)
                step.do(Tell(f"the lease service does not answer: {reason}", warn=True))
        case LeaseView() | Granted() | Denied() | Renewed() | Released() if step.state.away:
            step.state = replace(step.state, away=False)
            step.do(Tell("the lease service answers again"))


def _answer(step: Step, event: Event) -> None:
    match event, step.state.role:
        case Granted(), role if not (
            isinstance(role, Candidate)
            and role.search is Search.ACQUIRING
            and role.attempt == event.attempt
        ):
            _unwanted(step, event)
        case ((HandoffRequested(request) | PromoteRequested(request)), role) if not isinstance(
            role, Replica | Candidate | Primary
        ):
            step.answer(request, f"{step.rules.node} is {_name(step)} at the moment")
        case _, Replica() | Candidate() as role:
            _answer_standby(step, event, role)
        case _, Promoting() | Primary() as role:
            _answer_serving(step, event, role)
        case _, Demoting() as role:
            _answer_leaving(step, event, role)
        case _, Stopped():
            pass


def _unwanted(step: Step, event: Granted) -> None:
    """A grant that nobody waits for any more, or its double."""
    role = step.state.role
    if isinstance(role, Promoting | Primary | Demoting) and role.epoch == event.epoch:
        return
    step.release(event.epoch)


def _answer_standby(step: Step, event: Event, role: Replica | Candidate) -> None:
    match event, role:
        case LeaseView(), _:
            standby.see_lease(step, role, event)
        case LeaseUnavailable(attempt=attempt), Candidate():
            if attempt in (0, role.attempt):
                step.wait_as_replica("the lease service does not answer")
        case Granted(), Candidate():
            standby.see_grant(step, event)
        case Denied(attempt), Candidate(search=Search.ACQUIRING) if attempt == role.attempt:
            standby.see_denial(step, event)
        case MembersSeen(), Candidate():
            standby.see_members(step, role, event)
        case PrimarySilent(epoch), Replica():
            if step.state.following is not None and step.state.following.epoch == epoch:
                step.look()
        case PromoteRequested(request, by), _ if by == step.rules.node:
            handover.ask_primary(step, role, request)
        case ((HandoffRequested(request) | PromoteRequested(request)), _):
            primary = step.state.following
            known = "" if primary is None else f", {primary.node} is"
            step.answer(request, f"{step.rules.node} is not the primary{known}")
        case StopRequested(), _:
            leaving.stop(step, "it was asked for")
        case Tick(), Candidate():
            standby.tick(step, role)
        case Tick(), Replica(look_at_s) if step.now_s >= look_at_s:
            step.look()


def _answer_serving(step: Step, event: Event, role: Promoting | Primary) -> None:
    match event, role:
        case LeaseView(), _:
            serving.see_lease(step, role, event)
        case Renewed(epoch, deadline_s), _ if epoch == role.epoch:
            serving.see_renewal(step, role, deadline_s)
        case LeaseLost(epoch, reason), _ if epoch == role.epoch:
            step.see_end(epoch)
            step.leave(epoch, role.deadline_s, f"the lease was lost: {reason}", warn=True)
        case Promoted(epoch), Promoting(ordered=True) if epoch == role.epoch:
            serving.see_promotion(step, role)
        case PromotionFailed(epoch, reason), Promoting() if epoch == role.epoch:
            serving.fail_promotion(step, role, reason)
        case MembersSeen(), Primary():
            handover.see_members(step, role, event)
        case DrainedTo(), Primary():
            handover.see_drained(step, role, event)
        case HandoffRequested(request, target), Primary():
            handover.begin(step, role, target, request)
        case PromoteRequested(request, by), Primary():
            handover.begin(step, role, by, request)
        case StopRequested(), Primary():
            handover.begin(step, role, None, None)
        case StopRequested(), Promoting():
            step.leave(role.epoch, role.deadline_s, "stopping", stopping=True)
        case Tick(), _:
            serving.tick(step, role)
            if isinstance(step.state.role, Primary):
                handover.tick(step, step.state.role)


def _answer_leaving(step: Step, event: Event, role: Demoting) -> None:
    match event:
        case Fenced(attempt) if role.leaving is Leaving.FENCING and attempt == role.attempt:
            leaving.let_go(step, role)
        case Demoted(attempt) if role.leaving is Leaving.CHANGING and attempt == role.attempt:
            leaving.see_demotion(step)
        case Released(epoch) if role.leaving is Leaving.RELEASING and epoch == role.epoch:
            leaving.stop(step, "the lease was released")
        case LeaseView(holder) if holder is not None and not event.mine:
            step.see(holder.epoch)
        case StopRequested():
            leaving.request_stop(step, role)
        case Tick():
            leaving.tick(step, role)


def _name(step: Step) -> str:
    return type(step.state.role).__name__.lower()
