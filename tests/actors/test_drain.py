"""The drain of a node that stops, in a time of its own: each step has its own deadline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litemq.actors import drain as module
from litemq.actors.drain import GRACE_S, STAGE_S, Drain
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints

HEADS = [m.Head("a.db", m.WirePosition(1, 5, "8000000000000000"), 4096, 2, 0)]


class World:
    """What was asked, what was warned of, and timers that fire as time goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.asked: list[Any] = []
        self.warned: list[str] = []
        self.ended = 0
        self._timers: list[tuple[float, Callable[[], object]]] = []
        reactor: Any = self
        monkeypatch.setattr(module.log, "get", lambda: self)
        self.drain = Drain(reactor, Endpoints(Path("/run")), send=self._send, done=self._done)

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        self._timers.append((self.now_s + delay_s, call))

    def warning(self, _text: str, *, step: str) -> None:
        self.warned.append(step)

    def _send(self, _endpoint: str, message: m.Message) -> None:
        self.asked.append(type(message))

    def _done(self) -> None:
        self.ended += 1

    def wait(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while due := sorted(each for each in self._timers if each[0] <= end_s):
            self._timers.remove(due[0])
            self.now_s = due[0][0]
            due[0][1]()
        self.now_s = end_s


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


ANSWERS: list[m.Message] = [
    m.WritesClosed(), m.BarrierReached(1, HEADS), m.ReplicasDrained(True, 0),
]  # fmt: skip


def test_drain_when_every_step_takes_almost_its_time_then_none_is_cut_short(world: World) -> None:
    """The deadline of a step that has ended says nothing of the next."""
    world.drain.begin()
    for answer in ANSWERS:
        world.wait(STAGE_S * 0.9)
        assert not world.ended
        world.drain.answered(answer)
    world.wait(100)
    assert world.ended == 1
    assert world.warned == []
    assert world.asked == [m.CloseWrites, m.Barrier, m.DrainReplicas]


@pytest.mark.parametrize(
    ("answers", "step"), [(0, "writes closed"), (1, "logged"), (2, "replicas")]
)
def test_drain_when_a_step_is_not_answered_then_the_node_goes_on_and_names_it(
    world: World, answers: int, step: str
) -> None:
    """Once, and when its own time is over."""
    world.drain.begin()
    for answer in ANSWERS[:answers]:
        world.wait(STAGE_S * 0.9)
        world.drain.answered(answer)
    world.wait(STAGE_S * 0.9)
    assert not world.ended
    world.wait(STAGE_S * 0.1 + GRACE_S)
    assert (world.ended, world.warned) == (1, [step])
    for answer in ANSWERS:
        world.drain.answered(answer)
    world.wait(100)
    assert (world.ended, world.warned) == (1, [step])


@pytest.mark.parametrize("late", ANSWERS)
def test_drain_when_an_answer_belongs_to_another_step_then_it_changes_nothing(
    world: World, late: m.Message
) -> None:
    """Late, or twice."""
    world.drain.begin()
    world.drain.answered(ANSWERS[0])
    if not isinstance(late, m.BarrierReached):
        world.drain.answered(late)
        assert world.asked == [m.CloseWrites, m.Barrier]
    world.drain.answered(ANSWERS[1])
    if not isinstance(late, m.ReplicasDrained):
        world.drain.answered(late)
    assert world.asked == [m.CloseWrites, m.Barrier, m.DrainReplicas]
    assert not world.ended


def test_drain_when_it_is_begun_twice_then_it_goes_on_where_it_is(world: World) -> None:
    """The application's command may end while the node stops."""
    world.drain.begin()
    world.drain.answered(ANSWERS[0])
    world.drain.begin()
    world.drain.answered(ANSWERS[1])
    world.drain.answered(ANSWERS[2])
    assert world.ended == 1
    assert world.asked == [m.CloseWrites, m.Barrier, m.DrainReplicas]


def test_drain_when_there_is_nothing_to_drain_then_it_ends_at_once(world: World) -> None:
    """A replica, or a node in the middle of a change of role."""
    world.drain.skip()
    world.drain.skip()
    assert (world.ended, world.asked) == (1, [])
