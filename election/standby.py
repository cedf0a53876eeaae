"""What a node does that is not primary: follow whoever is, and candidate when nobody is. Pure.

Always true: only a candidate asks for the lease, one attempt at a time; what is granted to an
attempt that was given up is released.
"""

from __future__ import annotations

from msgspec.structs import replace

from litemq.election.actions import Acquire, Announce, AskMembers, BecomePrimary, Tell
from litemq.election.candidacy import turn_of
from litemq.election.events import Denied, Granted, LeaseView, MembersSeen
from litemq.election.members import Holder
from litemq.election.states import NEVER_S, Candidate, Promoting, Replica, Search
from litemq.election.turns import Step

#: candidates that get no list of members go ahead after this many unanswered questions
BLIND_QUESTIONS = 3
NO_CANDIDATE = (
    "nobody is primary: no candidate takes the lease, and this node has candidate = false; "
    "start a node that is a candidate, or look at what those that run say"
)


def see_lease(step: Step, role: Replica | Candidate, view: LeaseView) -> None:
    """The lease is held, or free."""
    if view.holder is not None:
        see_holder(step, role, view.holder, mine=view.mine)
        return
    step.see_end(view.last_epoch)
    until_s = step.now_s + view.safe_in_s
    step.state = replace(step.state, safe_at_s=max(step.state.safe_at_s, until_s))
    if not step.rules.candidate:
        see_vacancy(step)
        return
    named = (
        view.successor == step.rules.node
        and view.last_epoch >= step.state.epoch_seen
        and step.now_s >= step.state.hold_until_s
    )
    if isinstance(role, Candidate):
        if named and role.search is not Search.ACQUIRING:
            acquire(step, role.lost, "named as successor")
        return
    if named:
        acquire(step, step.state.epoch_seen, "named as successor")
        return
    why = "the lease is free"
    hold_s = step.state.hold_until_s
    if view.successor not in (None, step.rules.node):
        why = f"the lease is free, {view.successor} is to have it"
        hold_s = max(hold_s, step.now_s + step.rules.grace_s)
    search(step, hold_s, why)


def see_vacancy(step: Step) -> None:
    """Nobody has the lease, and this node may not: say so once, if it lasts."""
    due_s = step.state.vacant_at_s
    if due_s is None:
        step.state = replace(step.state, vacant_at_s=step.now_s + step.rules.vacant_s)
    elif step.now_s >= due_s:
        step.state = replace(step.state, vacant_at_s=NEVER_S)
        step.do(Tell(NO_CANDIDATE, warn=True))


def see_holder(step: Step, role: Replica | Candidate, holder: Holder, *, mine: bool) -> None:
    """Somebody holds the lease; perhaps this process without knowing, or one before it."""
    step.state = replace(step.state, vacant_at_s=None)
    if isinstance(role, Candidate) and role.search is Search.ACQUIRING and mine:
        return  # the answer to our attempt is under way
    if holder.epoch <= step.state.epoch_ended:
        if mine:
            step.release(holder.epoch)  # an earlier release was lost
        return
    if mine:
        step.release(holder.epoch)
        step.wait_as_replica(f"the lease of epoch {holder.epoch}, unknown here, is given back")
        return
    if holder.epoch < step.state.epoch_seen:
        text = f"{holder.node} holds the lease in epoch {holder.epoch}, lower than one seen before"
        step.do(Tell(f"{text} ({step.state.epoch_seen}): not followed", warn=True))
        return
    step.see(holder.epoch)
    if holder.node == step.rules.node:
        text = "the lease is held in this node's name by another process, or an earlier one"
        if step.state.why != text:
            step.wait_as_replica(text)
        return
    if isinstance(role, Candidate) or step.state.following != holder:
        step.wait_as_replica(f"{holder.node} is primary in epoch {holder.epoch}")
    step.follow(holder)


def search(step: Step, hold_until_s: float, why: str) -> None:
    """Become a candidate, after `hold_until_s`."""
    attempt = step.next_attempt()
    lost = step.state.epoch_seen
    role = Candidate(Search.HOLDING, step.now_s, hold_until_s, attempt, lost)
    step.become(role, why)
    step.do(Announce(lost, step.state.fit))
    if hold_until_s <= step.now_s:
        ask(step, role)


def ask(step: Step, role: Candidate) -> None:
    """Look who else is there."""
    attempt = step.next_attempt()
    until_s = step.now_s + step.rules.answer_s
    step.keep(replace(role, search=Search.ASKING, attempt=attempt, until_s=until_s))
    step.do(AskMembers(attempt))


def acquire(step: Step, lost: int, why: str) -> None:
    """Ask for the lease."""
    attempt = step.next_attempt()
    until_s = step.now_s + step.rules.answer_s
    step.become(Candidate(Search.ACQUIRING, step.now_s, until_s, attempt, lost), why)
    step.do(Acquire(attempt, step.state.epoch_seen))


def see_members(step: Step, role: Candidate, event: MembersSeen) -> None:
    """It is our turn, or not yet: then look again when it should be."""
    if role.search is not Search.ASKING or event.attempt != role.attempt:
        return
    rules = step.rules
    turn = turn_of(rules.node, event.members, lost=role.lost, fit=step.state.fit)
    due_s = role.since_s + turn.rank * rules.step_s
    if turn.rank:
        due_s += rules.jitter_s
    if not step.state.fit:
        due_s += rules.unfit_s
    settled_s = role.since_s + rules.settle_s
    if not turn.final and step.now_s < settled_s:
        until_s = min(step.now_s + rules.relook_s, settled_s)
    elif step.now_s < due_s:
        until_s = due_s
    else:
        acquire(step, role.lost, f"the lease is free, our turn is {turn.rank + 1}")
        return
    step.keep(replace(role, search=Search.WAITING, until_s=until_s))


def see_grant(step: Step, event: Granted) -> None:
    """The lease is ours, if its epoch is a new one."""
    if event.epoch <= step.state.epoch_seen:
        seen = step.state.epoch_seen
        step.release(event.epoch)
        text = f"granted epoch {event.epoch}, not above {seen} which was seen: released"
        step.do(Tell(text, warn=True))
        give_up(step, text)
        return
    rules = step.rules
    step.see(event.epoch)
    promoting = Promoting(
        event.epoch,
        event.deadline_s,
        max(step.state.safe_at_s, step.now_s + event.wait_s),
        step.now_s + rules.renew_s,
        step.now_s + rules.promote_s,
    )
    step.become(promoting, f"epoch {event.epoch} was granted: {step.state.why}")
    order(step, promoting)


def order(step: Step, role: Promoting) -> None:
    """Tell the actors, when nobody else believes in a lease and ours is good."""
    lapsed = step.now_s >= role.deadline_s - step.rules.margin_s
    if not role.ordered and step.now_s >= role.safe_at_s and not lapsed:
        step.keep(replace(role, ordered=True))
        step.do(BecomePrimary(role.epoch))


def see_denial(step: Step, event: Denied) -> None:
    """Somebody was faster, or the service is not ready."""
    step.hold(step.now_s + max(event.retry_in_s, step.rules.relook_s))
    give_up(step, "the lease was not to be had")


def give_up(step: Step, why: str) -> None:
    """Be a replica and look again."""
    step.wait_as_replica(why)
    step.look()


def tick(step: Step, role: Candidate) -> None:
    """A wait of a candidate has ended."""
    if step.now_s < role.until_s:
        return
    rules = step.rules
    if role.search is Search.ACQUIRING:
        give_up(step, "the lease service did not answer in time")
    elif role.search is Search.HOLDING:
        ask(step, replace(role, since_s=step.now_s))
    elif role.search is Search.ASKING and step.now_s >= (
        role.since_s + BLIND_QUESTIONS * rules.answer_s
    ):
        acquire(step, role.lost, "the lease is free, other candidates are not to be seen")
    else:
        ask(step, role)
