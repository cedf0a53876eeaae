"""Bytes for the kernel's page cache of the mount, before anybody asks for them.

Owns a thread: storing waits for the locks of the pages, and whoever reads such a page just then
holds its lock until our loop has answered. Never called for pages that a write in flight may touch:
the kernel would take what is stored here for newer.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from functools import partial
from typing import NoReturn

import pyfuse3

from litemq.fs.poll_loop import Event, PollLoop

_LAST_WORD_S = 1.0


class PageCache:
    """The page cache of one session."""

    def __init__(self, loop: PollLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[int, int, bytes, Event[None]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    async def store(self, inode: int, offset: int, data: bytes) -> None:
        """Returns when the kernel has taken `data`, or would not.

        The file ends behind `data` then, if it ended before.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="page cache", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # none is left: the kernel asks for the pages, as ever
                return
            self._thread = thread
        stored: Event[None] = Event()
        self._jobs.put((inode, offset, data, stored))
        await stored.wait()

    def close(self) -> None:
        """To be called before the session ends."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(_LAST_WORD_S)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            inode, offset, data, stored = job
            try:
                with contextlib.suppress(OSError):  # then the kernel asks for the pages, as ever
                    pyfuse3.notify_store(inode, offset, data)
            except BaseException as error:  # noqa: BLE001 - the actor dies of it, in its loop
                self._loop.call_from_thread(partial(_raise, error))
                return
            self._loop.call_from_thread(stored.set)


def _raise(error: BaseException) -> NoReturn:
    raise error
