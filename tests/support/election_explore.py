"""Two ways through the election's world: all short ones, and long ones by chance."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from election_world import (
    ASKED_LOCALLY,
    Advance,
    BrokenError,
    Budget,
    Move,
    World,
    new_world,
    primaries,
)

from litemq.election.states import Stopped


@dataclass(slots=True)
class Found:
    """How far an exploration came; `depth` moves were all tried, unless `states` hit the limit."""

    states: int
    moves: int
    depth: int
    trail: list[Move] | None = None
    broken: BrokenError | None = None


def explore(
    start: World,
    *,
    depth: int,
    limit: int,
    moves_of: Callable[[World], list[Move]] = World.moves,
) -> Found:
    """Breadth first, each state once; ends at the first thing broken, with the moves to it."""
    with _no_collection():
        return _explore(start, depth, limit, moves_of)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Whoever keeps a hundred thousand worlds, none in a cycle, has them looked through no more.

    That took three fifths of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _explore(
    start: World, depth: int, limit: int, moves_of: Callable[[World], list[Move]]
) -> Found:
    seen: set[Hashable] = {start.key()}
    parents: list[tuple[int, Move | None]] = [(-1, None)]
    layer = [(start, 0)]
    moves = 0
    for level in range(depth):
        following: list[tuple[World, int]] = []
        for world, number in layer:
            for move in moves_of(world):
                moves += 1
                other = world.copy()
                try:
                    other.play(move)
                except BrokenError as broken:
                    trail = [move]
                    while number >= 0:
                        number, earlier = parents[number]
                        trail += [earlier] if earlier else []
                    return Found(len(seen), moves, level, trail[::-1], broken)
                key = other.key()
                if key in seen:
                    continue
                seen.add(key)
                parents.append((number, move))
                following.append((other, len(parents) - 1))
            if len(seen) >= limit:
                return Found(len(seen), moves, level)
        layer = following
    return Found(len(seen), moves, depth)


#: what makes a small world: whole seconds, as few different waits as possible
SMALL = {
    "margin_s": 0.0,
    "renew_s": 1.0,
    "answer_s": 3.0,
    "look_s": 3.0,
    "settle_s": 0.0,
    "relook_s": 1.0,
    "step_s": 1.0,
    "grace_s": 1.0,
    "drain_s": 2.0,
    "unfit_s": 1.0,
    "release_s": 1.0,
}


def settled_pair(step: Advance | None = None, **budget: int) -> World:
    """Two nodes, `a` is primary and `b` follows it; nothing is under way."""
    world = new_world("ab", ttl_s=2.0, **SMALL)
    world.settle(6.0)
    assert [node.name for node in primaries(world)] == ["a"]
    assert not world.pool
    world.horizon_s = world.now_s + 4.0
    world.budget = Budget(**budget)
    if step is not None:
        world.step = step
    return world


WEIGHTS = {
    "deliver": 8.0,
    "double": 0.5,
    "lose": 0.3,
    "work": 8.0,
    "tick": 6.0,
    "drained": 4.0,
    "commit": 1.0,
    "replicate": 3.0,
    "start": 0.5,
    "expire": 3.0,
    "time": 4.0,
    "kill": 0.05,
    "crash": 0.05,
    "empty": 0.05,
    "handoff": 0.1,
    "stop": 0.03,
    "promote": 0.1,
    "fit": 0.05,
    "silent": 0.3,
}
QUICK = {
    "margin_s": 0.1,
    "renew_s": 0.25,
    "answer_s": 0.6,
    "look_s": 0.8,
    "settle_s": 0.1,
    "relook_s": 0.03,
    "step_s": 0.2,
    "grace_s": 0.5,
    "drain_s": 1.0,
    "unfit_s": 0.7,
    "release_s": 0.3,
    "promote_s": 5.0,
}


def wander(seed: int, moves: int, *, step: Advance | None = None) -> World:
    """A long way with every fault, chosen by `seed`; the world it ends in."""
    chance = random.Random(seed)
    world = new_world(chance.choice(["ab", "abc", "abc"]), ttl_s=1.0, data=True, **QUICK)
    if step is not None:
        world.step = step
    many = 1 << 30
    world.budget = Budget(*[chance.choice([0, many]) for _ in vars(world.budget)])
    world.unlucky = chance.random() < 0.3
    often = {kind: weight * chance.choice([0.2, 1, 5]) for kind, weight in WEIGHTS.items()}
    stalled: str | None = None
    for _ in range(moves):
        if chance.random() < 0.01:
            stalled = chance.choice([None, *world.nodes])
        if chance.random() < 0.01:
            world.cut = frozenset(chance.sample(sorted(world.nodes), chance.randrange(2)))
        world.tick_s = chance.choice([0.01, 0.05, 0.1, 0.3]) if chance.random() < 0.97 else 2.0
        choices = [each for each in world.moves() if not _stands_still(world, each, stalled)]
        weights = [often[str(each[0])] for each in choices]
        world.play(chance.choices(choices, weights)[0])
        if len(world.pool) > 40:  # a network does not keep things for ever; a node does
            old = [each for each in world.pool[:-40] if isinstance(each[3], ASKED_LOCALLY)]
            world.pool = (*old, *world.pool[-40:])
    return world


def _stands_still(world: World, move: Move, stalled: str | None) -> bool:
    """Whether a stopped process would have to act for this; its mount goes on."""
    if stalled is None:
        return False
    if move[0] == "deliver":
        message = world.pool[int(str(move[1]))]
        return not message[0] and message[1] == stalled
    return move[0] in ("tick", "handoff", "stop", "fit", "silent") and move[1] == stalled


def calm_down(world: World, seconds: float) -> None:
    """All faults end: whoever was killed or has stopped is started again."""
    world.cut = frozenset()
    world.budget = Budget()
    world.settle(2.0)  # those that are about to stop do
    for name, node in world.nodes.items():
        if node.state is not None and isinstance(node.state.role, Stopped):
            world.play(("start", name))
    world.settle(seconds)
