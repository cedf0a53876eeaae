"""One helper thread for the few calls that may block where an actor may not.

Opening a path in the mount waits while a call that holds the directory waits for the actor itself;
an fdatasync takes as long as the disk takes. The helper does one thing at a time, in order; its
results come back to the actor's loop through a descriptor. Always true: each call is answered, and
an exception that nobody foresaw is raised in the actor's loop, of which the actor dies.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from litemq import log, thread_room
from litemq.errors import LiteMQError, NoThreadError

T = TypeVar("T")


class HelperThread:
    """A queue of blocking calls, and another of their results."""

    def __init__(self) -> None:
        """Raises NoThreadError."""
        self.fd, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._jobs: queue.SimpleQueue[Callable[[], Callable[[], None] | None]] = queue.SimpleQueue()
        self._results: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._work, name="helper", daemon=True)
        try:
            thread_room.start(self._thread)
        except NoThreadError:
            os.close(self.fd)
            os.close(self._wake)
            raise

    def open_file(
        self, path: str, done: Callable[[int | None], None], *, writing: bool = False
    ) -> None:
        """Open `path`; `done` gets the descriptor, or None: it can't be opened, or is a link."""
        flags = (os.O_RDWR if writing else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW

        def job() -> Callable[[], None]:
            try:
                fd: int | None = os.open(path, flags)
            except OSError:
                fd = None
            return lambda: done(fd)

        self._jobs.put(job)

    def call(self, work: Callable[[], T], done: Callable[[T | LiteMQError], None]) -> None:
        """Run `work` there; `done` gets what it returns, or the LiteMQError that it raises."""

        def job() -> Callable[[], None]:
            result: T | LiteMQError
            try:
                result = work()
            except LiteMQError as error:
                result = error
            return lambda: done(result)

        self._jobs.put(job)

    def run(self, call: Callable[[], object]) -> None:
        """Run `call` there; an OSError or a LiteMQError is logged."""

        def job() -> None:
            try:
                call()
            except (LiteMQError, OSError) as error:
                log.get().error("a background call failed", reason=str(error))

        self._jobs.put(job)

    def collect(self) -> None:
        """Hand results over; to be called when `fd` is readable."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return
        while self._results:
            self._results.popleft()()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - raised again where the actor dies of it
                result = partial(_raise, error)
            if result is not None:
                self._results.append(result)
                with contextlib.suppress(BlockingIOError):  # full: the actor is about to wake
                    os.write(self._wake, b"\0")


def _raise(error: BaseException) -> NoReturn:
    raise error
