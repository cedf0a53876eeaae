"""The event loop of a process that serves FUSE: one thread, poll(2), and coroutines that may park.

Owns: which coroutine runs next, timers, and what pyfuse3 believes to be `trio` (`install`).
Never: blocks anywhere but in poll(2), runs two things at a time, or swallows an exception:
whatever a coroutine or timer raises ends `run` with it, and every other coroutine is closed.
Always true: a parked coroutine costs nothing and holds nobody up. A coroutine is in one place:
running, in the ready queue, a timer, the waiter of a descriptor, or the waiter of an Event or Lock.

Why not trio: the same FUSE handlers answer a commit in a third of the time on this loop. A request
costs one poll(2), one `send`, and whatever pyfuse3 and the handler do.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import TracebackType, coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from litemq.fs.trio_for_pyfuse3 import FuseReadLock

T = TypeVar("T")
Coro = Coroutine[Any, Any, Any]

_WAKE_BYTES_PER_READ = 4096


class ClosedResourceError(Exception):
    """A descriptor was announced to be closed while a coroutine waited for it."""


class Task:
    """A coroutine under way; `send` is kept bound because it is called for every FUSE request."""

    __slots__ = ("coro", "name", "on_done", "send")

    def __init__(self, coro: Coro, name: str, on_done: Callable[[], None] | None) -> None:
        self.coro = coro
        self.send = coro.send
        self.name = name
        self.on_done = on_done


class Timer:
    """A pending `call_later`; `cancel` may be called at any time, also after it fired."""

    __slots__ = ("fn",)

    def __init__(self, fn: Callable[[], object]) -> None:
        self.fn: Callable[[], object] | None = fn

    def cancel(self) -> None:
        self.fn = None


@coroutine
def park() -> Generator[None, None, None]:
    """Give the thread back to the loop; whoever calls has arranged to be resumed."""
    yield


class PollLoop:
    """At most one runs in a process at a time, because pyfuse3 has one session in a process."""

    _running: ClassVar[PollLoop | None] = None

    def __init__(self) -> None:
        self._ready: deque[Task] = deque()
        self._timers: list[tuple[float, int, Timer | Task]] = []
        self._timer_serial = 0
        self._poll = select.poll()
        self._registered: set[int] = set()
        self._waiting: dict[int, Task] = {}
        self._closing: set[int] = set()
        self._tasks: set[Task] = set()
        self._current: Task | None = None
        self._stopping = False
        self.fuse_lock: FuseReadLock | None = None
        self._from_threads: deque[Callable[[], object]] = deque()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # -- running

    def run(self, main_coro: Coroutine[Any, Any, T]) -> T | None:
        """Runs until `main_coro` returns (its value is returned), `stop` (None), or an exception.

        Coroutines still alive then are closed: their `finally` blocks run, but may not await.
        """
        if PollLoop._running is not None:
            main_coro.close()
            raise RuntimeError("another PollLoop is running in this process")
        PollLoop._running = self
        result: list[T] = []

        async def main() -> None:
            result.append(await main_coro)
            self._stopping = True

        # A signal handler runs between two byte codes, but poll(2) is resumed after it; the byte
        # that the interpreter writes here makes poll return, so that a handler may call `stop`.
        in_main_thread = threading.current_thread() is threading.main_thread()
        old_wakeup_fd = (
            signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False) if in_main_thread else -1
        )
        try:
            self.spawn(self._run_calls_from_threads(), "wake-ups")
            self.spawn(main(), "main")
            self._turn()
        finally:
            if in_main_thread:
                signal.set_wakeup_fd(old_wakeup_fd)
            main_coro.close()
            self._close_tasks()
            PollLoop._running = None
            self._stopping = False
        return result[0] if result else None

    def _turn(self) -> None:
        ready = self._ready
        timers = self._timers
        waiting = self._waiting
        poll = self._poll.poll
        monotonic = time.monotonic
        while not self._stopping:
            if ready:
                events = poll(0)
            elif timers:
                # poll rounds up to whole milliseconds, so a timer is never early
                wait_ms = (timers[0][0] - monotonic()) * 1000
                events = poll(wait_ms if wait_ms > 0 else 0)
            else:
                events = poll()
            for fd, _mask in events:
                task = waiting.pop(fd, None)
                if task is None:
                    # Readable and nobody's business (every FUSE worker is parked): forget it
                    # until somebody asks, or poll would return at once for ever.
                    self._forget(fd)
                    continue
                self._current = task
                try:
                    task.send(None)
                except StopIteration:
                    self._finish(task)
            if timers:
                self._fire_timers()
            lock = self.fuse_lock
            if lock is not None and lock.waiters and not lock.held:
                ready.append(lock.waiters.popleft())
            for _ in range(len(ready)):
                self._current = task = ready.popleft()
                try:
                    task.send(None)
                except StopIteration:
                    self._finish(task)

    def _finish(self, task: Task) -> None:
        self._tasks.discard(task)
        if task.on_done is not None:
            task.on_done()

    def _fire_timers(self) -> None:
        now = time.monotonic()
        timers = self._timers
        while timers and timers[0][0] <= now:
            what = heapq.heappop(timers)[2]
            if type(what) is Task:
                self._ready.append(what)
            elif isinstance(what, Timer) and what.fn is not None:
                what.fn()

    def _close_tasks(self) -> None:
        while self._tasks:
            task = self._tasks.pop()
            self._current = task
            # RuntimeError: it awaits while being closed, or it is the one that raised
            with suppress(RuntimeError):
                task.coro.close()
        for fd in list(self._registered):
            self._forget(fd)
        self._ready.clear()
        self._timers.clear()
        self._waiting.clear()
        self._closing.clear()
        self.fuse_lock = None
        self._current = None

    # -- what may be called from anywhere

    def stop(self) -> None:
        """Ends `run` before the next turn. Safe in other threads and in signal handlers."""
        self._stopping = True
        self._wake()

    def call_from_thread(self, fn: Callable[[], object]) -> None:
        """Runs `fn` in the loop's thread, soon."""
        self._from_threads.append(fn)
        self._wake()

    def close(self) -> None:
        """Gives the two descriptors of the loop back; it cannot run again."""
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: the loop will wake up anyway
            os.write(self._wake_w, b"\0")

    async def _run_calls_from_threads(self) -> None:
        while True:
            await self.wait_readable(self._wake_r)
            with suppress(BlockingIOError):
                os.read(self._wake_r, _WAKE_BYTES_PER_READ)
            while self._from_threads:
                self._from_threads.popleft()()

    # -- what may be called in the loop's thread only

    def spawn(
        self, coro: Coro, name: str = "task", *, on_done: Callable[[], None] | None = None
    ) -> Task:
        """Starts `coro` at the next turn; `on_done` is called when it has returned."""
        task = Task(coro, name, on_done)
        self._tasks.add(task)
        self._ready.append(task)
        return task

    def resume(self, task: Task) -> None:
        """Runs a parked task at the next turn: for whoever registered it somewhere and parked."""
        self._ready.append(task)

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> Timer:
        """Calls `fn` after `delay_s` or up to 1 ms later: poll(2) counts in milliseconds."""
        timer = Timer(fn)
        self._add_timer(delay_s, timer)
        return timer

    def _add_timer(self, delay_s: float, what: Timer | Task) -> None:
        self._timer_serial += 1
        deadline = time.monotonic() + delay_s
        heapq.heappush(self._timers, (deadline, self._timer_serial, what))

    @staticmethod
    def running() -> PollLoop:
        """The loop whose coroutine is calling."""
        if PollLoop._running is None:
            raise RuntimeError("no PollLoop is running")
        return PollLoop._running

    def current_task(self) -> Task:
        """The task that runs now."""
        if self._current is None:
            raise RuntimeError("not inside a coroutine of this loop")
        return self._current

    async def sleep(self, delay_s: float) -> None:
        """Parks for at least `delay_s`; 0 lets every other ready coroutine go first."""
        task = self.current_task()
        if delay_s <= 0:
            self._ready.append(task)
        else:
            self._add_timer(delay_s, task)
        await park()

    @coroutine
    def wait_readable(self, fd: int) -> Generator[None, None, None]:
        """Parks until `fd` is readable, hung up or in error. One waiter per descriptor.

        Raises ClosedResourceError if `notify_closing` is called for it meanwhile. Call that before
        closing any descriptor that was ever waited for: the registration outlives the wait.
        """
        # A plain generator rather than `async def`: this is on the path of every FUSE request.
        waiting = self._waiting
        if fd in waiting:
            raise RuntimeError(f"two coroutines wait for descriptor {fd}")
        if fd not in self._registered:
            self._poll.register(fd, select.POLLIN)
            self._registered.add(fd)
        waiting[fd] = self._current  # type: ignore[assignment]
        yield
        if self._closing and fd in self._closing:
            self._closing.discard(fd)
            raise ClosedResourceError(f"descriptor {fd} is being closed")

    def notify_closing(self, fd: int) -> None:
        """Wakes the waiter of `fd` with ClosedResourceError and forgets the descriptor."""
        self._forget(fd)
        task = self._waiting.pop(fd, None)
        if task is not None:
            self._closing.add(fd)
            self._ready.append(task)

    def _forget(self, fd: int) -> None:
        if fd in self._registered:
            self._registered.discard(fd)
            self._poll.unregister(fd)

    # -- what pyfuse3 calls trio

    def install(self) -> None:
        """Makes pyfuse3 run on this loop: await `pyfuse3.main()` inside `run`.

        Leave `min_tasks` at 1: then two workers live for ever, and the second is only resumed when
        the first one parks. `max_tasks` limits how many requests may be parked at a time.
        """
        import pyfuse3  # here, so that the loop can be used and tested without FUSE

        from litemq.fs.trio_for_pyfuse3 import Trio

        pyfuse3.trio = Trio(self)  # type: ignore[attr-defined]


class Event(Generic[T]):
    """Set once, with a value; whoever waits gets that value, also afterwards."""

    __slots__ = ("_value", "_waiters", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._value: T | None = None
        self._waiters: list[tuple[PollLoop, Task]] = []

    def set(self, value: T | None = None) -> None:
        """Setting it again changes nothing: the first value stays."""
        if self.is_set:
            return
        self.is_set = True
        self._value = value
        for loop, task in self._waiters:
            loop.resume(task)
        self._waiters.clear()

    async def wait(self) -> T | None:
        if not self.is_set:
            loop = PollLoop.running()
            self._waiters.append((loop, loop.current_task()))
            await park()
        return self._value


class Lock:
    """Fair: whoever asked first gets it next. For `async with`."""

    __slots__ = ("_held", "_waiters")

    def __init__(self) -> None:
        self._held = False
        self._waiters: deque[Task] = deque()

    @property
    def locked(self) -> bool:
        return self._held

    async def __aenter__(self) -> None:
        if self._held:
            loop = PollLoop.running()
            self._waiters.append(loop.current_task())
            await park()  # the one who leaves hands the lock over: it stays held
        else:
            self._held = True

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _exc: BaseException | None,
        _tb: TracebackType | None,
    ) -> None:
        if self._waiters:
            PollLoop.running().resume(self._waiters.popleft())
        else:
            self._held = False
