"""The poll loop of the actors that speak only ZeroMQ: descriptors, messages and timers, one at a
time.

Never runs two handlers at once and never swallows an exception: an actor whose handler fails dies,
and its supervisor starts it anew. Always true: a receiver whose descriptor fired is read until it
is empty before the loop sleeps, since ZeroMQ tells of new datagrams only once; one that nobody has
touched since still has its descriptor to tell.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections.abc import Callable, Mapping

from litemq.actors.reachable import stay_reachable
from litemq.transport.messages import Message
from litemq.transport.sockets import Receiver

Handler = Callable[[Message, list[bytes]], None]
#: messages are handled for so long (seconds), then it is the turn of timers and of `after_events`
MESSAGES_S = 0.05
#: whether the files of sockets are there is looked at this often
REACHABLE_S = 1.0


class Reactor:
    """Waits for what an actor asked it to wait for, and calls it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._receivers: list[tuple[Receiver, Handler]] = []
        #: what may hold datagrams of which its descriptor tells no more
        self._unread: set[Receiver] = set()
        self._begin_s = time.monotonic()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._stopping = False
        self._idle: list[Callable[[], bool]] = []

    def on_readable(self, fd: int, call: Callable[[], None]) -> None:
        self._readers[fd] = call
        self._poll.register(fd, select.POLLIN)

    def rest(self, fd: int, pause_s: float) -> None:
        """Do not look at `fd` for a moment; what happens there meanwhile is seen afterwards."""
        self._poll.modify(fd, 0)
        self.later(pause_s, lambda: self._poll.modify(fd, select.POLLIN))

    def forget(self, fd: int) -> None:
        del self._readers[fd]
        self._poll.unregister(fd)

    def on_message(self, receiver: Receiver, handler: Handler) -> None:
        self._receivers.append((receiver, handler))
        self._unread.add(receiver)
        self._poll.register(receiver.fd, select.POLLIN)

    def drop_receiver(self, receiver: Receiver) -> None:
        self._receivers = [pair for pair in self._receivers if pair[0] is not receiver]
        self._unread.discard(receiver)
        self._poll.unregister(receiver.fd)

    def after_events(self, work: Callable[[], bool]) -> None:
        """Call `work` after every turn; as long as it returns true there is more to do at once."""
        self._idle.append(work)

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        self._at(time.monotonic() + delay_s, call)

    def _at(self, when_s: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (when_s, next(self._order), call))

    def every(self, period_s: float, call: Callable[[], None]) -> None:
        """Call now, and whenever another `period_s` since the beginning is over: what has the same
        pace, or a multiple of it, comes together, and the process wakes once for all of it. A late
        call is not made up for.
        """
        done = 0

        def again() -> None:
            nonlocal done
            call()
            past = int((time.monotonic() - self._begin_s) / period_s)
            done = max(done, past) + 1
            self._at(self._begin_s + done * period_s, again)

        again()

    def stop(self) -> None:
        """Leave `run` after the current handler."""
        self._stopping = True

    def run(self, on_signal: Mapping[int, Callable[[int], None]] | None = None) -> None:
        """Work until `stop`. Signals call what `on_signal` has for them.

        By default SIGTERM stops.
        """
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        calls = on_signal or {signal.SIGTERM: lambda _: self.stop()}
        for number in calls:
            signal.signal(number, lambda got, _frame: calls[got](got))
        self.on_readable(wake_read, lambda: _empty(wake_read))
        self.every(REACHABLE_S, self._stay_reachable)
        try:
            while not self._stopping:
                self._turn()
        finally:
            self.forget(wake_read)
            signal.set_wakeup_fd(-1)
            os.close(wake_read)
            os.close(wake_write)

    def _stay_reachable(self) -> None:
        for receiver, _ in self._receivers:
            stay_reachable(receiver)

    def _turn(self) -> None:
        busy = False
        for work in self._idle:
            busy = work() or busy
        fired = set()
        for fd, _ in self._poll.poll(self._timeout_ms(busy or bool(self._unread))):
            call = self._readers.get(fd)
            if call is not None:
                call()
            fired.add(fd)
        end_s = time.monotonic() + MESSAGES_S
        for receiver, handler in list(self._receivers):
            if receiver.fd not in fired and receiver not in self._unread:
                continue
            self._unread.add(receiver)
            for message, payload in receiver.drain():
                handler(message, payload)
                if self._stopping:
                    return
                if time.monotonic() > end_s:
                    break  # the rest is there in the next turn
            if not receiver.more:
                self._unread.discard(receiver)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now and not self._stopping:
            heapq.heappop(self._timers)[2]()

    def _timeout_ms(self, busy: bool) -> int | None:
        if busy:
            return 0
        if not self._timers:
            return None
        remaining_s = self._timers[0][0] - time.monotonic()
        return int(remaining_s * 1000) + 1 if remaining_s > 0 else 0


def _empty(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)
