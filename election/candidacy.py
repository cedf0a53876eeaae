"""Whose turn it is when the lease is free, and who is to have it at a hand-over. Pure.

Always true: two nodes that look at the same members agree on the order, and each has its own place.
A look is an opinion, the lease decides: what is wrong here costs time, never safety.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from litemq.election.members import Member
from litemq.txlog.ids import Epoch


def _before(member: Member) -> tuple[int, int, int, str]:
    """Sorts the most advanced first; those that are not fit come after all that are."""
    standing = member.standing
    return (0 if member.fit else 1, -standing.epoch, -standing.txids, member.node)


def ranking(members: Iterable[Member]) -> list[Member]:
    """The candidates among them, the most advanced first."""
    return sorted((each for each in members if each.candidate), key=_before)


class Turn(Struct, frozen=True):
    """The place of a node: how many go first, and whether all of these have spoken."""

    rank: int
    final: bool


def turn_of(node: str, members: Sequence[Member], *, lost: Epoch, fit: bool) -> Turn:
    """The turn of `node` after the end of epoch `lost`.

    It is final when every other candidate has announced its standing since then; before, one that
    seems to be behind may be ahead. A node that is not listed comes last.
    """
    order = ranking(members)
    others = [each for each in order if each.node != node]
    mine = next((each for each in order if each.node == node), None)
    if mine is None:
        rank = len(others)
    else:
        me = Member(node, mine.standing, fit=fit)
        rank = sum(_before(each) < _before(me) for each in others)
    return Turn(rank, all(each.lost >= lost for each in others))


def successor_of(node: str, members: Iterable[Member], target: str | None) -> Member | str:
    """Who gets the lease from `node`: `target`, or the most advanced; a text says why nobody."""
    found = [each for each in members if each.node != node]
    if target is not None:
        if target == node:
            return f"{node} is the primary already"
        named = next((each for each in found if each.node == target), None)
        if named is None:
            return f"{target} is not a member, or not alive"
        if not named.candidate:
            return f"{target} is no candidate"
        found = [named]
    ready = [each for each in ranking(found) if each.fit and each.connected]
    if ready:
        return ready[0]
    if target is None:
        reasons = [f"; {each.node}: {each.unfit}" for each in found if each.unfit]
        return "no other candidate is connected and fit" + "".join(reasons)
    if found[0].fit:
        return f"{target} is not connected"
    reason = found[0].unfit and f": {found[0].unfit}"
    return f"the log of {target} is not fit{reason}"


def highest_epoch(members: Iterable[Member]) -> Epoch:
    """The highest epoch that any of them has seen, 0 if there is none."""
    return max((max(each.epoch_seen, each.standing.epoch) for each in members), default=0)
