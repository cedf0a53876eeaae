"""Giving the lease away: choose who, close writes, wait until that node has everything. Pure.

Always true: a successor is named only after it had everything while writes were closed; a hand-over
that fails opens them again, unless the node is stopping.
"""

from __future__ import annotations

from msgspec.structs import replace

from litemq.election.actions import (
    AskHandoff,
    AskMembers,
    HoldWrites,
    Tell,
    WaitForReplica,
)
from litemq.election.candidacy import successor_of
from litemq.election.events import DrainedTo, MembersSeen
from litemq.election.serving import open_writes
from litemq.election.states import Candidate, Commits, Handover, Primary, Replica
from litemq.election.turns import Step


def begin(step: Step, role: Primary, target: str | None, request: int | None) -> None:
    """Hand over; `request` is None when the node stops."""
    stopping = request is None
    under_way = role.handover
    if under_way is not None:
        if stopping:
            step.keep(replace(role, handover=replace(under_way, stopping=True)))
        elif under_way.request != request:
            step.answer(request, "a hand-over is under way")
        return
    if target == step.rules.node:
        step.answer(request, None)
        return
    attempt = step.next_attempt()
    until_s = step.now_s + step.rules.answer_s
    handover = Handover(attempt, until_s, target, request, stopping)
    role = replace(role, handover=handover)
    step.keep(role)
    if role.commits is Commits.FENCED:
        refuse(step, role, handover, "the lease is not renewed")
    else:
        step.do(AskMembers(attempt))


def see_members(step: Step, role: Primary, event: MembersSeen) -> None:
    """Choose the successor and close writes for it."""
    handover = role.handover
    if handover is None or handover.draining or event.attempt != handover.attempt:
        return
    if role.commits is Commits.FENCED:
        refuse(step, role, handover, "the lease is not renewed")
        return
    chosen = successor_of(step.rules.node, event.members, handover.target)
    if isinstance(chosen, str):
        refuse(step, role, handover, chosen)
        return
    attempt = step.next_attempt()
    until_s = step.now_s + step.rules.drain_s
    step.do(HoldWrites(role.epoch), WaitForReplica(attempt, chosen.node, until_s))
    draining = replace(
        handover, attempt=attempt, until_s=until_s, target=chosen.node, draining=True
    )
    step.keep(replace(role, commits=Commits.HELD, handover=draining))


def see_drained(step: Step, role: Primary, event: DrainedTo) -> None:
    """The successor has everything."""
    handover = role.handover
    if handover is None or not handover.draining or event.attempt != handover.attempt:
        return
    if role.commits is Commits.FENCED:  # another may have been elected and have gone further
        refuse(step, role, handover, "the lease is not renewed")
        return
    step.leave(
        role.epoch,
        role.deadline_s,
        f"handing over to {handover.target}",
        successor=handover.target,
        request=handover.request,
        stopping=handover.stopping,
    )


def tick(step: Step, role: Primary) -> None:
    """A hand-over that takes too long ends."""
    handover = role.handover
    if handover is None or step.now_s < handover.until_s:
        return
    if handover.draining:
        limit_s = step.rules.drain_s
        reason = f"{handover.target} did not have everything within {limit_s:g} s"
    else:
        reason = "the members of the cluster are not to be seen"
    refuse(step, role, handover, reason)


def refuse(step: Step, role: Primary, handover: Handover, reason: str) -> None:
    """Stay primary; or, if the node stops, go without a successor."""
    if handover.stopping:
        step.leave(role.epoch, role.deadline_s, f"stopping, no successor: {reason}", stopping=True)
        return
    step.answer(handover.request, reason)
    step.do(Tell(f"no hand-over: {reason}", warn=True))
    role = replace(role, handover=None)
    if role.commits is Commits.HELD:
        open_writes(step, role)
    else:
        step.keep(role)


def ask_primary(step: Step, role: Replica | Candidate, request: int) -> None:
    """This node was asked to be promoted: only the primary can do that."""
    primary = step.state.following
    if not step.rules.candidate:
        step.answer(request, f"{step.rules.node} is no candidate")
    elif isinstance(role, Candidate) or primary is None:
        step.answer(request, "no primary is known: the lease decides")
    else:
        step.do(AskHandoff(request, primary))
