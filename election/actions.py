"""What a node is to do in an election: imperatives, as values.

They are carried out in their order. Those to the other actors (FenceCommits, AcceptCommits,
HoldWrites, WaitForReplica, BecomePrimary, BecomeReplica, Follow) go down one queue, and the next
begins when the one before is done. Those to the lease service may be slow, and overtake nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from litemq.election.members import Holder
from litemq.txlog.ids import Epoch


class PersistEpoch(Struct, frozen=True):
    """Bring the highest epoch seen to the disk before anything else is done."""

    epoch: Epoch


class AcceptCommits(Struct, frozen=True):
    """Accept commits of this epoch while the boot clock is before `until_s`, not later."""

    epoch: Epoch
    until_s: float


class FenceCommits(Struct, frozen=True):
    """Refuse every commit from now on; answered by Fenced."""

    attempt: int


class HoldWrites(Struct, frozen=True):
    """Let writers wait, until AcceptCommits or FenceCommits."""

    epoch: Epoch


class WaitForReplica(Struct, frozen=True):
    """Answer with DrainedTo when `target` has everything; forget it after `until_s`."""

    attempt: int
    target: str
    until_s: float


class BecomePrimary(Struct, frozen=True):
    """Complete the log, then start the actors of a primary; Promoted or PromotionFailed answers."""

    epoch: Epoch


class BecomeReplica(Struct, frozen=True):
    """Start the actors of a replica that follows nobody; answered by Demoted."""

    attempt: int


class Follow(Struct, frozen=True):
    """Follow this primary."""

    holder: Holder


class LookAtLease(Struct, frozen=True):
    """Read the lease; answered by LeaseView or LeaseUnavailable."""


class Acquire(Struct, frozen=True):
    """Ask for the lease, with an epoch above `above`; Granted, Denied or LeaseUnavailable
    answers.
    """

    attempt: int
    above: Epoch


class Renew(Struct, frozen=True):
    """Prolong the lease; Renewed, RenewFailed or LeaseLost answers. Dropped while one is under
    way.
    """

    epoch: Epoch


class Release(Struct, frozen=True):
    """Let go of the lease if it is ours and of this epoch, else do nothing; answered by Released.
    Tried again until answered, but not after the lease has ended by itself.
    """

    epoch: Epoch
    successor: str | None = None


class Announce(Struct, frozen=True):
    """Tell the other members our standing; `lost` is the epoch whose end we have seen."""

    lost: Epoch
    fit: bool


class AskMembers(Struct, frozen=True):
    """Who is alive? Answered by MembersSeen."""

    attempt: int


class AskHandoff(Struct, frozen=True):
    """Ask this primary to hand over to us; it reads PromoteRequested."""

    request: int
    primary: Holder


class HandoffEnded(Struct, frozen=True):
    """Answer a request: done if `refused` is None, else the reason."""

    request: int
    refused: str | None = None


class Tell(Struct, frozen=True):
    """Log one line; as a warning if an operator may have to act."""

    text: str
    warn: bool = False


class Stop(Struct, frozen=True):
    """There is nothing left to do: the node may end."""


Action: TypeAlias = (
    PersistEpoch
    | AcceptCommits
    | FenceCommits
    | HoldWrites
    | WaitForReplica
    | BecomePrimary
    | BecomeReplica
    | Follow
    | LookAtLease
    | Acquire
    | Renew
    | Release
    | Announce
    | AskMembers
    | AskHandoff
    | HandoffEnded
    | Tell
    | Stop
)
