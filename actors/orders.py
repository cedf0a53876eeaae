"""What the role machine orders of the other actors: one order after the other, each until answered.

Never decides anything. Always true: the next order begins when the one before is done, given up, or
overtaken by one that makes it void.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from litemq.actors.reactor import Reactor
from litemq.election import clock
from litemq.transport import messages as m

#: a question is put again this often: who was asked may have died meanwhile
AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Wait:
    """A question, and what ends it."""

    #: put the question; called again and again if `repeat`
    ask: Callable[[], object]
    #: True: that was the answer; False: it was not; a Wait: it was, and another question follows
    answered: Callable[[m.Message], bool | Wait]
    #: seconds on the boot clock; what must be done is never given up
    until_s: float = math.inf
    given_up: Callable[[], object] = lambda: None
    repeat: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """`begin` does what is to be done, and says what to wait for, if anything."""

    kind: type
    begin: Callable[[], Wait | None]


class Orders:
    """The queue, and the order under way."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._queue: deque[Order] = deque()
        self._kind: type | None = None
        self._wait: Wait | None = None

    def add(self, order: Order, *, voids: tuple[type, ...] = ()) -> None:
        """Carry it out in its turn; orders of the kinds in `voids` are waited for no longer."""
        if voids:
            self._queue = deque(each for each in self._queue if each.kind not in voids)
            if self._kind in voids:
                self._wait = self._kind = None
        self._queue.append(order)
        self._next()

    def answer(self, message: m.Message) -> bool:
        """Whether the order under way has waited for this message."""
        wait = self._wait
        if wait is None:
            return False
        found = wait.answered(message)
        if found is False:
            return False
        if self._wait is wait:  # it is not, if the answer has voided the order
            self._set(found if isinstance(found, Wait) else None)
        return True

    def _next(self) -> None:
        while self._wait is None and self._queue:
            order = self._queue.popleft()
            self._kind = order.kind
            wait = order.begin()
            if wait is not None:
                self._set(wait)

    def _set(self, wait: Wait | None) -> None:
        self._wait = wait
        if wait is None:
            self._next()
            return
        wait.ask()
        self._look(wait)

    def _look(self, wait: Wait) -> None:
        left_s = wait.until_s - clock.now_s()

        def again() -> None:
            if self._wait is not wait:
                return
            if clock.now_s() >= wait.until_s:
                wait.given_up()
                if self._wait is wait:
                    self._set(None)
                return
            if wait.repeat:
                wait.ask()
            self._look(wait)

        self._reactor.later(max(min(left_s, AGAIN_S), 0.001), again)
