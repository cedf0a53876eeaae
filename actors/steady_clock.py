"""The wall clock as it was when this process began, and as much later as it has run since.

Somebody may set the machine's clock by years. What is kept for so many days must not go for that.
"""

from __future__ import annotations

import time

_BEGAN_WALL_S, _BEGAN_S = time.time(), time.monotonic()


def now_s() -> float:
    """Seconds since 1970, as this process counts them."""
    return _BEGAN_WALL_S + time.monotonic() - _BEGAN_S
