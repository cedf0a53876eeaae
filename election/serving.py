"""What a node does that holds the lease: change its actors, accept commits, stop in time. Pure.

Always true: commits are accepted no longer than the lease is known to last, less a margin; they
are refused before anything else is done about it.
"""

from __future__ import annotations

from msgspec.structs import replace

from litemq.election.actions import AcceptCommits, FenceCommits, Renew, Tell
from litemq.election.events import LeaseView
from litemq.election.standby import order
from litemq.election.states import Commits, Primary, Promoting, accepts_commits
from litemq.election.turns import Step


def fence_in_time(step: Step) -> None:
    """Refuse commits if the lease is about to end; the first thing in every step."""
    role = step.state.role
    if not isinstance(role, Primary) or role.commits is Commits.FENCED:
        return
    if step.now_s < role.deadline_s - step.rules.margin_s:
        return
    step.do(FenceCommits(step.next_attempt()))
    step.do(
        Tell(f"commits are refused: the lease of epoch {role.epoch} was not renewed", warn=True)
    )
    step.keep(replace(role, commits=Commits.FENCED))


def open_writes(step: Step, role: Primary) -> None:
    """Accept commits until shortly before the lease ends; nothing if that is now."""
    until_s = role.deadline_s - step.rules.margin_s
    if step.now_s >= until_s:
        step.keep(role)
        return
    step.do(AcceptCommits(role.epoch, until_s))
    step.keep(replace(role, commits=Commits.OPEN))


def see_renewal(step: Step, role: Promoting | Primary, deadline_s: float) -> None:
    """The lease lasts longer."""
    deadline_s = max(role.deadline_s, deadline_s)
    if isinstance(role, Promoting):
        role = replace(role, deadline_s=deadline_s)
        step.keep(role)
        order(step, role)
        return
    role = replace(role, deadline_s=deadline_s)
    if role.handover is not None and role.handover.draining:
        step.keep(role)
        return
    open_writes(step, role)
    if role.commits is Commits.FENCED and accepts_commits(step.rules, step.state, step.now_s):
        step.do(Tell(f"commits are accepted again: the lease of epoch {role.epoch} was renewed"))


def see_promotion(step: Step, role: Promoting) -> None:
    """The actors are a primary's: commits are accepted from here on, if the lease still lasts."""
    primary = Primary(role.epoch, role.deadline_s, role.renew_at_s, Commits.FENCED)
    step.become(primary, step.state.why)
    open_writes(step, primary)


def fail_promotion(step: Step, role: Promoting, reason: str) -> None:
    """The actors could not, or not in time: let others try."""
    step.hold(step.now_s + step.rules.unfit_s)
    step.leave(role.epoch, role.deadline_s, f"not promoted: {reason}", warn=True)


def see_lease(step: Step, role: Promoting | Primary, view: LeaseView) -> None:
    """Another holder ends the term; a free lease only makes us ask, the view may be old."""
    if view.holder is None:
        renew(step, role)
    elif view.holder.epoch > role.epoch:
        step.see(view.holder.epoch)
    elif view.holder.epoch == role.epoch and not view.mine:
        why = f"{view.holder.node} holds the lease of the same epoch {role.epoch}"
        step.leave(role.epoch, role.deadline_s, why, warn=True)


def depose_if_outdated(step: Step) -> None:
    """A higher epoch exists, so ours has ended; the last thing in every step."""
    role = step.state.role
    if isinstance(role, Promoting | Primary) and step.state.epoch_seen > role.epoch:
        why = f"epoch {step.state.epoch_seen} exists, ours was {role.epoch}"
        step.leave(role.epoch, role.deadline_s, why, warn=True)


def renew(step: Step, role: Promoting | Primary) -> None:
    """Ask for more time."""
    step.do(Renew(role.epoch))
    renew_at_s = step.now_s + step.rules.renew_s
    if isinstance(role, Promoting):
        step.keep(replace(role, renew_at_s=renew_at_s))
    else:
        step.keep(replace(role, renew_at_s=renew_at_s))


def tick(step: Step, role: Promoting | Primary) -> None:
    """Renew when it is time; a promotion goes on, or has taken too long."""
    if isinstance(role, Promoting):
        if step.now_s >= role.until_s:
            fail_promotion(step, role, "the actors took too long")
            return
        order(step, role)
    held = step.state.role
    if isinstance(held, Promoting | Primary) and step.now_s >= held.renew_at_s:
        renew(step, held)
