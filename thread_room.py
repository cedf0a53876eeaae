"""Whether the system lets this process have more threads, asked before that is a matter of life.

Python raises RuntimeError for a thread that can't be started; ZeroMQ ends the process. Always true:
what is started here to find out has ended before the answer is given.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from litemq.errors import NoThreadError

_ENDS_S = 1.0
_LOOK_S = 0.0005


def start(thread: threading.Thread) -> None:
    """Start it. Raises NoThreadError."""
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThreadError(f"no thread is left: {error}") from error


def check(threads: int) -> None:
    """Raises NoThreadError unless so many can be started at this moment."""
    before = _count()
    go = threading.Event()
    try:
        for _ in range(threads):
            start(threading.Thread(target=go.wait, name="room", daemon=True))
    finally:
        go.set()
        end_s = time.monotonic() + _ENDS_S
        while _count() > before and time.monotonic() < end_s:  # the kernel still counts them
            time.sleep(_LOOK_S)


def _count() -> int:
    """Of this process; 0 if it can't be told."""
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return 0
