"""One step of the role machine while it is being made: the state so far and the actions so far.

What several roles do stands here. Not kept beyond the step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from litemq.election.actions import (
    Action,
    FenceCommits,
    Follow,
    HandoffEnded,
    LookAtLease,
    PersistEpoch,
    Release,
    Tell,
)
from litemq.election.members import Holder
from litemq.election.rules import Rules
from litemq.election.states import Demoting, Leaving, Primary, Replica, Role, State
from litemq.txlog.ids import Epoch


@dataclass(slots=True)
class Step:
    """The step at `now_s`."""

    rules: Rules
    state: State
    now_s: float
    actions: list[Action] = field(default_factory=list)

    def do(self, *actions: Action) -> None:
        self.actions += actions

    def keep(self, role: Role) -> None:
        """Change details of the present role."""
        self.state = replace(self.state, role=role)

    def become(self, role: Role, why: str, *, warn: bool = False) -> None:
        """Change the role, for a reason that people read."""
        self.state = replace(self.state, role=role, why=why, since_s=self.now_s)
        self.do(Tell(f"{type(role).__name__.lower()}: {why}", warn=warn))

    def next_attempt(self) -> int:
        self.state = replace(self.state, attempt=self.state.attempt + 1)
        return self.state.attempt

    def see(self, epoch: Epoch) -> bool:
        """Note that this epoch exists; whether it is higher than all before."""
        if epoch <= self.state.epoch_seen:
            return False
        self.state = replace(self.state, epoch_seen=epoch)
        self.do(PersistEpoch(epoch))
        return True

    def see_end(self, epoch: Epoch) -> None:
        """Note that the lease of this epoch has ended."""
        self.see(epoch)
        if epoch > self.state.epoch_ended:
            self.state = replace(self.state, epoch_ended=epoch)

    def hold(self, until_s: float) -> None:
        """Let others go first until then."""
        self.state = replace(self.state, hold_until_s=max(self.state.hold_until_s, until_s))

    def follow(self, holder: Holder) -> None:
        """Follow it, unless that is done already."""
        if self.state.following != holder:
            self.state = replace(self.state, following=holder)
            self.do(Follow(holder))

    def look(self) -> None:
        """Look at the lease now, and regularly."""
        self.do(LookAtLease())
        if isinstance(self.state.role, Replica):
            self.keep(Replica(self.now_s + self.rules.look_s))

    def wait_as_replica(self, why: str) -> None:
        """Be a replica of whomever the actors follow."""
        self.become(Replica(self.now_s + self.rules.look_s), why)

    def leave(
        self,
        epoch: Epoch,
        deadline_s: float,
        why: str,
        *,
        successor: str | None = None,
        request: int | None = None,
        stopping: bool = False,
        warn: bool = False,
    ) -> None:
        """Be no primary any more: first of all, no commit is accepted."""
        attempt = self.next_attempt()
        self.do(FenceCommits(attempt))
        before = self.state.role
        if successor is None and isinstance(before, Primary) and before.handover is not None:
            self.answer(before.handover.request, why)
            stopping = stopping or before.handover.stopping
        role = Demoting(Leaving.FENCING, attempt, epoch, deadline_s, successor, request, stopping)
        self.become(role, why, warn=warn)

    def answer(self, request: int | None, refused: str | None) -> None:
        """Tell whoever asked for a hand-over, if anybody did, how it ended."""
        if request is not None:
            self.do(HandoffEnded(request, refused))

    def release(self, epoch: Epoch) -> None:
        """Give back a lease that nobody here serves under."""
        self.see_end(epoch)
        self.do(Release(epoch))
