"""Memory that is free inside this process, given back to the system.

A backlog passes through an actor as thousands of pages of some KiB; the C library keeps their
places for later. Never needed for anything to work: where the library has no such call, nothing
happens. Source: malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import resource

#: what has to be held beside what was held after the last time, before it is worth the time (bytes)
WORTHWHILE_BYTES = 4 * 1024 * 1024
_PAGE = resource.getpagesize()
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_held = 0


def give_back() -> None:
    """Call it now and then; it takes a millisecond when there was much."""
    global _held
    if _trim is not None and _resident() > _held + WORTHWHILE_BYTES:
        _trim(0)
        _held = _resident()


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE
