"""What pyfuse3 believes to be `trio`, on top of `poll_loop`: just the parts that it uses.

Owns: the lock of pyfuse3's request readers, its nursery, and the mode of its session's descriptor.
Never: imports pyfuse3, or trio. Always true: of pyfuse3's workers one waits for the next request,
and at most one more is resumed for it.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Self

from litemq.fs.fuse_init import InitExchange
from litemq.fs.poll_loop import ClosedResourceError, Coro, Event, PollLoop, Task, park

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator


class _Done:
    """An awaitable that never parks, made once: an `async def` costs a coroutine per call."""

    def __await__(self) -> Generator[None, None, None]:
        return iter(())  # type: ignore[return-value] # any iterator does, this is the cheapest


_DONE = _Done()


class FuseReadLock:
    """Held by the pyfuse3 worker that waits for the next request. Unfair on purpose.

    A worker that answered without parking takes the lock again at once. The other worker is resumed
    by the loop only when it finds the lock free, that is when the first one parked in a request.
    A fair lock would cost two switches of coroutines for each request.
    """

    __slots__ = ("_loop", "held", "waiters")

    def __init__(self, loop: PollLoop) -> None:
        self._loop = loop
        self.held = False
        self.waiters: deque[Task] = deque()

    def __aenter__(self) -> Awaitable[None]:
        if self.held:
            return self._wait()
        self.held = True
        return _DONE

    async def _wait(self) -> None:
        while self.held:
            self.waiters.append(self._loop.current_task())
            await park()
        self.held = True

    def __aexit__(self, *_exc: object) -> Awaitable[None]:
        self.held = False
        return _DONE


class _Nursery:
    """Leaves its block when every child has returned."""

    def __init__(self, loop: PollLoop) -> None:
        self._loop = loop
        self._children = 0
        self._all_done: Event[None] = Event()

    async def __aenter__(self) -> Self:
        return self

    def start_soon(self, func: Callable[..., Coro], *args: object, name: str | None = None) -> None:
        self._children += 1
        worker = _retry_when_nothing_to_read(func, *args)
        self._loop.spawn(worker, name or "pyfuse", on_done=self._child_done)

    def _child_done(self) -> None:
        self._children -= 1
        if self._children == 0:
            self._all_done.set()

    async def __aexit__(self, *exc: object) -> None:
        if exc[0] is None and self._children:
            await self._all_done.wait()


async def _retry_when_nothing_to_read(func: Callable[..., Coro], *args: object) -> None:
    """A request can vanish between poll and read, when the process that made it is killed.

    Blocking in that read would stop the loop until the next request, and the next request may be
    waiting for us. So the session does not block, and pyfuse3, which takes that for an error, is
    told to go on. (It loses its read buffer, 1 MiB of address space, in this rare case.)
    """
    while True:
        try:
            await func(*args)
        except BlockingIOError:
            continue
        return


class _LowLevel:
    """`trio.lowlevel` as far as pyfuse3 uses it."""

    def __init__(self, loop: PollLoop) -> None:
        self._loop = loop
        self.current_task = loop.current_task
        self.notify_closing = loop.notify_closing
        self.wait_readable: Callable[[int], Awaitable[None]] = self._first_wait

    def current_trio_token(self) -> PollLoop:
        return self._loop

    def _first_wait(self, fd: int) -> Awaitable[None]:
        # pyfuse3 keeps the descriptor of its session to itself; this is where it shows
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
        exchange = InitExchange(fd)
        self.wait_readable = partial(self._second_wait, exchange)
        return self._loop.wait_readable(fd)

    def _second_wait(self, exchange: InitExchange, fd: int) -> Awaitable[None]:
        exchange.finish()
        self.wait_readable = self._loop.wait_readable
        return self._loop.wait_readable(fd)


class Trio:
    """The module `trio` as far as pyfuse3 uses it."""

    ClosedResourceError = ClosedResourceError

    def __init__(self, loop: PollLoop) -> None:
        self._loop = loop
        self.lowlevel = _LowLevel(loop)

    def Lock(self) -> FuseReadLock:  # noqa: N802 - the name is trio's
        lock = self._loop.fuse_lock = FuseReadLock(self._loop)
        return lock

    def open_nursery(self) -> _Nursery:
        return _Nursery(self._loop)
