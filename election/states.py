"""What a node is in an election, as values, and when it must look at the clock again.

Always true: commits are accepted only as `Primary` with `Commits.OPEN`, and the role stays what
it is while they may be.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias

from msgspec import Struct

from litemq.election.members import Holder
from litemq.election.rules import Rules
from litemq.txlog.ids import Epoch

NEVER_S = float("inf")


class Replica(Struct, frozen=True):
    """Follows the primary it knows, if any."""

    look_at_s: float


class Search(Enum):
    """What a candidate waits for."""

    HOLDING = auto()  # for somebody who goes first
    ASKING = auto()  # for the list of members
    WAITING = auto()  # for its turn
    ACQUIRING = auto()  # for the lease


class Candidate(Struct, frozen=True):
    """The lease is free, as far as is known. `until_s` ends the present wait."""

    search: Search
    since_s: float  # its turn is counted from here
    until_s: float
    attempt: int
    lost: Epoch  # the epoch whose end it saw


class Promoting(Struct, frozen=True):
    """The lease is ours; commits are not accepted yet."""

    epoch: Epoch
    deadline_s: float
    safe_at_s: float  # no earlier holder believes in its lease from here on
    renew_at_s: float
    until_s: float
    ordered: bool = False  # the actors have been told


class Commits(Enum):
    """What writers meet on a primary."""

    OPEN = auto()
    HELD = auto()  # they wait
    FENCED = auto()  # they are refused


class Handover(Struct, frozen=True):
    """The primary is about to give its lease away; `target` is None until one was found."""

    attempt: int
    until_s: float
    target: str | None
    request: int | None  # whom to answer
    stopping: bool
    draining: bool = False


class Primary(Struct, frozen=True):
    """Serves in this epoch until the lease ends, unless it is renewed."""

    epoch: Epoch
    deadline_s: float
    renew_at_s: float
    commits: Commits
    handover: Handover | None = None


class Leaving(Enum):
    """How far a node has come that is no primary any more."""

    FENCING = auto()  # commits may still be accepted
    CHANGING = auto()  # the actors become those of a replica
    RELEASING = auto()  # the node ends when the service has heard of it


class Demoting(Struct, frozen=True):
    """No longer primary, or not yet anything: every node starts here. Epoch 0 has no lease."""

    leaving: Leaving
    attempt: int
    epoch: Epoch
    until_s: float  # FENCING: the end of the lease, when commits are refused whatever hangs
    successor: str | None = None
    request: int | None = None
    stopping: bool = False


class Stopped(Struct, frozen=True):
    """Does nothing but release what is granted too late."""


Role: TypeAlias = Replica | Candidate | Promoting | Primary | Demoting | Stopped


class State(Struct, frozen=True):
    """The role, and what is known in every role."""

    role: Role
    #: the highest epoch seen, the same on disk
    epoch_seen: Epoch
    #: of the last change of role
    why: str
    since_s: float
    #: number of the last question asked
    attempt: int = 0
    #: the primary that the actors follow, or followed last
    following: Holder | None = None
    #: the highest epoch known to have ended
    epoch_ended: Epoch = 0
    #: an earlier holder may believe in its lease until then
    safe_at_s: float = 0.0
    #: no candidacy before this, but as a named successor
    hold_until_s: float = 0.0
    fit: bool = True
    #: when to say that nobody takes the lease; None as long as somebody has it
    vacant_at_s: float | None = None
    #: the lease service did not answer when it was asked last
    away: bool = False


def accepts_commits(rules: Rules, state: State, now_s: float) -> bool:
    """Whether a commit may be accepted at this moment."""
    role = state.role
    return (
        isinstance(role, Primary)
        and role.commits is Commits.OPEN
        and now_s < role.deadline_s - rules.margin_s
    )


def wake_at(rules: Rules, state: State, now_s: float) -> float | None:
    """When a Tick is due, None if none is needed. Ask after every step; it lies ahead then."""
    match state.role:
        case Replica(look_at_s):
            return look_at_s
        case Candidate(until_s=until_s):
            return until_s
        case Promoting() as role:
            times = [role.renew_at_s, role.until_s]
            if not role.ordered and role.safe_at_s > now_s:
                times.append(role.safe_at_s)
            return min(times)
        case Primary() as role:
            times = [role.renew_at_s]
            if role.commits is not Commits.FENCED:
                times.append(role.deadline_s - rules.margin_s)
            if role.handover is not None:
                times.append(role.handover.until_s)
            return min(times)
        case Demoting(until_s=until_s) if until_s != NEVER_S:
            return until_s
        case _:
            return None
