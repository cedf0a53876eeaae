"""Orders to other actors: one after the other, whatever is answered, or is not."""

from __future__ import annotations

import pytest

from litemq.actors import orders as module
from litemq.actors.orders import Order, Orders, Wait
from litemq.actors.reactor import Reactor
from litemq.election import clock
from litemq.transport import messages as m

DONE = m.WritesClosed()
OTHER = m.ElectionLeft()


class Clerk:
    """Gives orders by name, and writes down what becomes of them."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.orders = Orders(self.reactor)
        self.told: list[str] = []

    def wait(self, name: str, *, then: Wait | None = None, limit_s: float = 60.0) -> Wait:
        def answered(message: m.Message) -> bool | Wait:
            if message != DONE:
                return False
            self.told.append(f"{name} done")
            return then or True

        return Wait(
            lambda: self.told.append(name),
            answered,
            clock.now_s() + limit_s,
            lambda: self.told.append(f"{name} given up"),
        )

    def order(self, name: str, kind: type = int, wait: Wait | None = None) -> Order:
        def begin() -> Wait | None:
            if wait is None:
                self.told.append(name)
            return wait

        return Order(kind, begin)

    def run(self, seconds: float) -> None:
        self.reactor.later(seconds, self.reactor.stop)
        self.reactor.run()


def test_order_when_the_one_before_is_unanswered_then_it_waits() -> None:
    """Others' messages are not taken for answers."""
    clerk = Clerk()
    clerk.orders.add(clerk.order("a", wait=clerk.wait("a")))
    clerk.orders.add(clerk.order("b"))
    assert not clerk.orders.answer(OTHER)
    assert clerk.told == ["a"]
    assert clerk.orders.answer(DONE)
    assert clerk.told == ["a", "a done", "b"]
    assert not clerk.orders.answer(DONE)


def test_order_when_one_question_follows_another_then_both_are_waited_for() -> None:
    """The next order begins after the last of them."""
    clerk = Clerk()
    clerk.orders.add(clerk.order("a", wait=clerk.wait("a", then=clerk.wait("a2"))))
    clerk.orders.add(clerk.order("b"))
    clerk.orders.answer(DONE)
    assert clerk.told == ["a", "a done", "a2"]
    clerk.orders.answer(DONE)
    assert clerk.told[-1] == "b"


def test_order_when_nobody_answers_then_it_is_put_again_and_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What follows is not held up for ever."""
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    clerk = Clerk()
    clerk.orders.add(clerk.order("a", wait=clerk.wait("a", limit_s=0.1)))
    clerk.orders.add(clerk.order("b"))
    clerk.run(0.5)
    assert clerk.told[:2] == ["a", "a"]
    assert clerk.told[-2:] == ["a given up", "b"]


def test_order_when_a_later_one_voids_it_then_it_is_waited_for_no_longer() -> None:
    """Neither the one under way nor those in the queue; others keep their place."""
    clerk = Clerk()
    clerk.orders.add(clerk.order("a", int, clerk.wait("a")))
    clerk.orders.add(clerk.order("b", int))
    clerk.orders.add(clerk.order("c", str))
    clerk.orders.add(clerk.order("d", float, clerk.wait("d")), voids=(int,))
    assert clerk.told == ["a", "c", "d"]
    clerk.orders.answer(DONE)
    assert clerk.told == ["a", "c", "d", "d done"]


def test_order_when_its_answer_voids_it_then_the_new_one_is_under_way() -> None:
    """As when the answer ends a term."""
    clerk = Clerk()

    def answered(_message: m.Message) -> bool:
        clerk.orders.add(clerk.order("b", float, clerk.wait("b")), voids=(int,))
        return True

    clerk.orders.add(clerk.order("a", int, Wait(lambda: None, answered)))
    clerk.orders.answer(DONE)
    assert clerk.told == ["b"]
    clerk.orders.answer(DONE)
    assert clerk.told == ["b", "b done"]
