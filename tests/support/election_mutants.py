"""Role machines with one rule taken out, each a wrapper around the real one: a checker that finds
nothing wrong with them would find nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable

from election_world import Advance
from msgspec.structs import replace

from litemq.election import actions as do
from litemq.election import events as on
from litemq.election.roles import advance
from litemq.election.rules import Rules
from litemq.election.states import (
    Candidate,
    Demoting,
    Leaving,
    Primary,
    Promoting,
    State,
)

Result = tuple[State, tuple[do.Action, ...]]


def _on_events(change: Callable[[State, on.Event, float], on.Event]) -> Advance:
    def mutant(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
        return advance(rules, state, change(state, event, now_s), now_s)

    return mutant


def _on_actions(change: Callable[[do.Action], do.Action | None]) -> Advance:
    def mutant(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
        state, actions = advance(rules, state, event, now_s)
        changed = [change(each) for each in actions]
        return state, tuple(each for each in changed if each is not None)

    return mutant


def _unconfirmed(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
    """Releases the lease without waiting until commits are refused."""
    state, actions = advance(rules, state, event, now_s)
    if isinstance(state.role, Demoting) and state.role.leaving is Leaving.FENCING:
        state, more = advance(rules, state, on.Fenced(state.role.attempt), now_s)
        actions += more
    return state, actions


def _hasty(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
    """Gives the lease of the process before it back while its mount may still accept commits."""
    state, actions = advance(rules, state, event, now_s)
    if isinstance(state.role, Demoting) and isinstance(event, on.LeaseView) and event.mine:
        assert event.holder is not None
        actions += (do.Release(event.holder.epoch),)
    return state, actions


def _believe_grants(state: State, event: on.Event, now_s: float) -> on.Event:
    if isinstance(event, on.Granted):
        return replace(event, wait_s=0.0)
    if isinstance(event, on.LeaseView):
        return replace(event, safe_in_s=0.0)
    return event


def _any_fence(state: State, event: on.Event, now_s: float) -> on.Event:
    if isinstance(event, on.Fenced) and isinstance(state.role, Demoting):
        return on.Fenced(state.role.attempt)
    return event


def _from_the_answer(state: State, event: on.Event, now_s: float) -> on.Event:
    """Counts the lease from when the answer came; 2 s is that of the small world."""
    if isinstance(event, on.Granted | on.Renewed):
        return replace(event, deadline_s=now_s + 2.0)
    return event


def _at_once(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
    """Serves as soon as the lease is granted, without waiting for the actors."""
    state, actions = advance(rules, state, event, now_s)
    if isinstance(state.role, Promoting) and state.role.ordered:
        state, more = advance(rules, state, on.Promoted(state.role.epoch), now_s)
        actions = tuple(each for each in actions if not isinstance(each, do.BecomePrimary)) + more
    return state, actions


def _forgetful(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
    """Serves in any epoch that it is granted, and asks for any."""
    role = state.role
    seen = state.epoch_seen
    if isinstance(role, Candidate) and isinstance(event, on.Granted):
        state = replace(state, epoch_seen=min(seen, event.epoch - 1))
    elif isinstance(role, Promoting | Primary):
        state = replace(state, epoch_seen=role.epoch)
    state, actions = advance(rules, state, event, now_s)
    kept = []
    for action in actions:
        if isinstance(action, do.Acquire):
            kept.append(replace(action, above=0))
        elif not isinstance(action, do.PersistEpoch) or action.epoch > seen:
            kept.append(action)
    return replace(state, epoch_seen=max(seen, state.epoch_seen)), tuple(kept)


def _endless(action: do.Action) -> do.Action:
    """Lets the mount accept commits for longer than the lease."""
    if isinstance(action, do.AcceptCommits):
        return replace(action, until_s=action.until_s + 1.0)
    return action


def _undrained(rules: Rules, state: State, event: on.Event, now_s: float) -> Result:
    """Names a successor that may lack something."""
    state, actions = advance(rules, state, event, now_s)
    role = state.role
    if isinstance(role, Primary) and role.handover and role.handover.draining:
        drained = on.DrainedTo(role.handover.attempt, str(role.handover.target))
        state, more = advance(rules, state, drained, now_s)
        actions += more
    return state, actions


MUTANTS: dict[str, Advance] = {
    "releases before commits are refused": _unconfirmed,
    "gives a former lease back before commits are refused": _hasty,
    "ignores that an earlier holder may believe in its lease": _on_events(_believe_grants),
    "takes any fence for the one it waits for": _on_events(_any_fence),
    "counts the lease from the answer": _on_events(_from_the_answer),
    "accepts commits before its actors are ready": _at_once,
    "serves in an old epoch": _forgetful,
    "lets the mount go on for too long": _on_actions(_endless),
    "names a successor before it has everything": _undrained,
}
