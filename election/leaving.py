"""What a node does on its way out of a term: refuse commits, release the lease, change back. Pure.

Always true: the lease is released only when no commit can be accepted any more, because that was
confirmed or because the lease itself has run out.
"""

from __future__ import annotations

from msgspec.structs import replace

from litemq.election.actions import BecomeReplica, FenceCommits, Release, Stop
from litemq.election.states import NEVER_S, Demoting, Leaving, State, Stopped
from litemq.election.turns import Step
from litemq.txlog.ids import Epoch


def begin(epoch_seen: Epoch, now_s: float, attempt: int) -> tuple[State, tuple[FenceCommits]]:
    """The first state and its action: what an earlier run of this actor allowed is taken back."""
    role = Demoting(Leaving.FENCING, attempt, 0, NEVER_S)
    return State(role, epoch_seen, "started", now_s, attempt), (FenceCommits(attempt),)


def let_go(step: Step, role: Demoting) -> None:
    """No commit is accepted any more."""
    if role.epoch:
        step.see_end(role.epoch)
        step.do(Release(role.epoch, role.successor))
    step.answer(role.request, None)
    if role.stopping:
        end_when_released(step, role)
        return
    attempt = step.next_attempt()
    step.state = replace(step.state, following=None)
    step.do(BecomeReplica(attempt))
    step.keep(replace(role, leaving=Leaving.CHANGING, attempt=attempt, until_s=NEVER_S))


def end_when_released(step: Step, role: Demoting) -> None:
    """Give the service a moment to hear of it."""
    if not role.epoch:
        stop(step, "it was asked for")
        return
    until_s = step.now_s + step.rules.release_s
    step.keep(replace(role, leaving=Leaving.RELEASING, until_s=until_s, stopping=True))


def stop(step: Step, why: str) -> None:
    """Nothing more to do."""
    step.become(Stopped(), why)
    step.do(Stop())


def request_stop(step: Step, role: Demoting) -> None:
    """The node is to end while it is on its way out."""
    if role.leaving is Leaving.FENCING and role.epoch:
        step.keep(replace(role, stopping=True))
    elif role.leaving is not Leaving.RELEASING:
        end_when_released(step, role)


def see_demotion(step: Step) -> None:
    """The actors are a replica's."""
    step.wait_as_replica(step.state.why)
    step.look()


def let_go_in_time(step: Step) -> None:
    """When the lease has run out nobody need confirm anything: commits are refused by then."""
    role = step.state.role
    if not isinstance(role, Demoting) or role.leaving is not Leaving.FENCING:
        return
    if step.now_s >= role.until_s:
        let_go(step, role)


def tick(step: Step, role: Demoting) -> None:
    """The release is not answered."""
    if role.leaving is Leaving.RELEASING and step.now_s >= role.until_s:
        stop(step, "the lease service did not answer, the lease ends by itself")
