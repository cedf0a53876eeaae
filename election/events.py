"""What a node learns in an election: past facts, as values.

Answers carry the number of the attempt, or the epoch, that they belong to. They may come late,
twice, in any order or never. Times are seconds on this node's boot clock.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from litemq.election.members import Holder, Member
from litemq.txlog.ids import Epoch


class LeaseView(Struct, frozen=True):
    """The lease as the service shows it: held by `holder`, or free."""

    holder: Holder | None
    #: held by this very process, or by the one before it, which is dead; not by another of its name
    mine: bool = False
    #: of a free lease: the epoch that ended, 0 if unknown; whom its holder named
    last_epoch: Epoch = 0
    successor: str | None = None
    #: of a free lease: an earlier holder may believe for this long that it still has it
    safe_in_s: float = 0.0


class LeaseUnavailable(Struct, frozen=True):
    """The service does not answer; an acquisition of this attempt may or may not have happened."""

    reason: str
    attempt: int = 0


class Granted(Struct, frozen=True):
    """The lease is ours until `deadline_s`, counted from before the request was sent. An earlier
    holder may believe for `wait_s` more that it has it.
    """

    attempt: int
    epoch: Epoch
    deadline_s: float
    wait_s: float = 0.0


class Denied(Struct, frozen=True):
    """The lease is another's, or not to be had for `retry_in_s`."""

    attempt: int
    retry_in_s: float = 0.0


class Renewed(Struct, frozen=True):
    """Ours until `deadline_s`, counted from before this renewal was sent; true however late."""

    epoch: Epoch
    deadline_s: float


class RenewFailed(Struct, frozen=True):
    """No answer: the lease may still be ours."""

    epoch: Epoch
    reason: str


class LeaseLost(Struct, frozen=True):
    """The service says that the lease of this epoch has ended; it never comes back."""

    epoch: Epoch
    reason: str


class Released(Struct, frozen=True):
    """The service has let go of the lease of this epoch."""

    epoch: Epoch


class MembersSeen(Struct, frozen=True):
    """The nodes that are alive, this one included."""

    attempt: int
    members: tuple[Member, ...]


class PrimarySilent(Struct, frozen=True):
    """The stream of the primary of this epoch ended, or has been silent for too long."""

    epoch: Epoch


class EpochSeen(Struct, frozen=True):
    """A record, heartbeat or position of this epoch was received."""

    epoch: Epoch


class Fenced(Struct, frozen=True):
    """From now on no commit is accepted; the answer to FenceCommits."""

    attempt: int


class Promoted(Struct, frozen=True):
    """The log is complete and all actors are those of a primary of this epoch."""

    epoch: Epoch


class PromotionFailed(Struct, frozen=True):
    """The actors could not become those of a primary."""

    epoch: Epoch
    reason: str


class Demoted(Struct, frozen=True):
    """All actors are those of a replica."""

    attempt: int


class HandoffRequested(Struct, frozen=True):
    """Somebody wants the primary to hand over, to `target` or to the most advanced candidate."""

    request: int
    target: str | None = None


class PromoteRequested(Struct, frozen=True):
    """Node `by` is to be the primary: asked for on that node, or by it."""

    request: int
    by: str


class DrainedTo(Struct, frozen=True):
    """Writes are closed, and `target` has everything that was ever acknowledged here."""

    attempt: int
    target: str


class FitnessChanged(Struct, frozen=True):
    """Whether the log of this node is whole and ready."""

    fit: bool
    reason: str


class StopRequested(Struct, frozen=True):
    """The node is to end."""


class Tick(Struct, frozen=True):
    """Time has passed."""


Event: TypeAlias = (
    LeaseView
    | LeaseUnavailable
    | Granted
    | Denied
    | Renewed
    | RenewFailed
    | LeaseLost
    | Released
    | MembersSeen
    | PrimarySilent
    | EpochSeen
    | Fenced
    | Promoted
    | PromotionFailed
    | Demoted
    | HandoffRequested
    | PromoteRequested
    | DrainedTo
    | FitnessChanged
    | StopRequested
    | Tick
)
