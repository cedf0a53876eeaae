"""One role machine, played by hand: what it is told, and what it answers."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from litemq.election import actions as do
from litemq.election import events as on
from litemq.election.members import Holder, Member, Standing
from litemq.election.roles import advance, begin
from litemq.election.rules import Rules
from litemq.election.states import Role, accepts_commits, wake_at

A = TypeVar("A")

RULES = Rules(
    "a",
    margin_s=0.1,
    renew_s=0.25,
    answer_s=1.0,
    look_s=1.0,
    settle_s=0.1,
    relook_s=0.02,
    step_s=0.2,
    unfit_s=2.0,
    grace_s=1.0,
    drain_s=5.0,
    promote_s=60.0,
    release_s=1.0,
)
B5 = Holder("b", "tcp://b", 5)


def member(node: str, txids: int = 0, *, epoch: int = 5, lost: int = 5, **more: object) -> Member:
    """A node that has announced itself after the end of epoch 5."""
    return replace(Member(node, Standing(epoch, txids), lost=lost), **more)


class Script:
    """A node called `a` that has started and is a replica; times are seconds."""

    def __init__(self, rules: Rules = RULES, *, epoch_seen: int = 5) -> None:
        self.rules = rules
        self.now_s = 0.0
        self.state, first = begin(epoch_seen, 0.0, 1)
        self.actions: list[do.Action] = list(first)
        self.tell(on.Fenced(self.state.attempt))
        self.tell(on.Demoted(self.state.attempt))
        self.actions = []

    @property
    def role(self) -> Role:
        return self.state.role

    @property
    def accepts(self) -> bool:
        return accepts_commits(self.rules, self.state, self.now_s)

    def tell(self, event: on.Event, at: float | None = None) -> list[do.Action]:
        """What it does about `event`, without what it merely tells."""
        self.now_s = self.now_s if at is None else at
        self.state, actions = advance(self.rules, self.state, event, self.now_s)
        self.actions += actions
        return [each for each in actions if not isinstance(each, do.Tell)]

    def wait(self) -> list[do.Action]:
        """Go on to when a Tick is due."""
        due_s = wake_at(self.rules, self.state, self.now_s)
        assert due_s is not None
        return self.tell(on.Tick(), due_s)

    def last(self, kind: type[A]) -> A:
        """The last action of this kind."""
        return next(each for each in reversed(self.actions) if isinstance(each, kind))

    def told(self) -> list[str]:
        """What people are told, so far."""
        return [each.text for each in self.actions if isinstance(each, do.Tell)]

    def see_free(self, last_epoch: int = 5, **more: object) -> list[do.Action]:
        view = on.LeaseView(None, last_epoch=last_epoch)
        return self.tell(replace(view, **more))

    def see_members(self, *members: Member) -> list[do.Action]:
        """Answer the last AskMembers."""
        return self.tell(on.MembersSeen(self.last(do.AskMembers).attempt, members))

    def grant(self, epoch: int = 6, *, ttl_s: float = 1.0, wait_s: float = 0.0) -> list[do.Action]:
        """Answer the last Acquire."""
        attempt = self.last(do.Acquire).attempt
        return self.tell(on.Granted(attempt, epoch, self.now_s + ttl_s, wait_s))

    def elect(self, epoch: int = 6, *, ttl_s: float = 1.0) -> Script:
        """Be the primary of `epoch`."""
        self.see_free()
        self.see_members(member("a"))
        self.grant(epoch, ttl_s=ttl_s)
        self.tell(on.Promoted(epoch))
        assert self.accepts
        return self

    def closed_for(self, target: str = "b", *, request: int = 1) -> int:
        """Primary, asked to hand over to `target` and waiting for it; number of the wait."""
        self.tell(on.HandoffRequested(request))
        self.see_members(member("a", 9), member(target, 9))
        return self.last(do.WaitForReplica).attempt
