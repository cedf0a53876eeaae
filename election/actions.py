"""What a node is to do in an election: imperatives, as values.

They are carried out in their order. Those to the other actors (FenceCommits, AcceptCommits,
HoldWrites, WaitForReplica, BecomePrimary, BecomeReplica, Follow) go down one queue, and the next
begins when the one before is done. Those to the lease service may be slow, and overtake nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from litemq.election.members import Holder
from litemq.txlog.ids import Epoch


@dataclass(frozen=True, slots=True)
class PersistEpoch:
    """Bring the highest epoch seen to the disk before anything else is done."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class AcceptCommits:
    """Accept commits of this epoch while the boot clock is before `until_s`, not later."""

    epoch: Epoch
    until_s: float


@dataclass(frozen=True, slots=True)
class FenceCommits:
    """Refuse every commit from now on; answered by Fenced."""

    attempt: int


@dataclass(frozen=True, slots=True)
class HoldWrites:
    """Let writers wait, until AcceptCommits or FenceCommits."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class WaitForReplica:
    """Answer with DrainedTo when `target` has everything; forget it after `until_s`."""

    attempt: int
    target: str
    until_s: float


@dataclass(frozen=True, slots=True)
class BecomePrimary:
    """Complete the log, then start the actors of a primary; Promoted or PromotionFailed answers."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class BecomeReplica:
    """Start the actors of a replica that follows nobody; answered by Demoted."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Follow this primary."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class LookAtLease:
    """Read the lease; answered by LeaseView or LeaseUnavailable."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Ask for the lease, with an epoch above `above`; Granted, Denied or LeaseUnavailable
    answers.
    """

    attempt: int
    above: Epoch


@dataclass(frozen=True, slots=True)
class Renew:
    """Prolong the lease; Renewed, RenewFailed or LeaseLost answers. Dropped while one is under
    way.
    """

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Release:
    """Let go of the lease if it is ours and of this epoch, else do nothing; answered by Released.
    Tried again until answered, but not after the lease has ended by itself.
    """

    epoch: Epoch
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the other members our standing; `lost` is the epoch whose end we have seen."""

    lost: Epoch
    fit: bool


@dataclass(frozen=True, slots=True)
class AskMembers:
    """Who is alive? Answered by MembersSeen."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AskHandoff:
    """Ask this primary to hand over to us; it reads PromoteRequested."""

    request: int
    primary: Holder


@dataclass(frozen=True, slots=True)
class HandoffEnded:
    """Answer a request: done if `refused` is None, else the reason."""

    request: int
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """Log one line; as a warning if an operator may have to act."""

    text: str
    warn: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
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
