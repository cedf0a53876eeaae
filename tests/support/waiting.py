"""Waiting for a fact, never for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05
#: deadlines are stretched so many times at most
_MOST_PATIENCE = 4.0


def eventually(
    check: Callable[[], Any], *, timeout_s: float = 20.0, what: str = "", until: Any = True
) -> Any:
    """Call `check` until it gives something true (or `until`, if named); what it gave.

    An AssertionError of the check counts as "not yet"; the last one is shown when time is up. Where
    more processes want to run than there are processors, that is so much later.
    """
    began_s = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    while True:
        reason: BaseException | None = None
        found: Any = None
        try:
            found = check()
            if found == until or (until is True and found):
                return found
        except AssertionError as error:
            reason = error
        waited_s = time.monotonic() - began_s
        if waited_s > timeout_s and waited_s > timeout_s * patience():
            told = f": {what}" if what else ""
            raise AssertionError(
                f"not within {waited_s:.1f} s{told}; last: {reason or repr(found)[:2000]}"
            ) from reason
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def patience() -> float:
    """How much slower than alone this machine is: processes that want to run, per processor."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(max(busy, 1.0), _MOST_PATIENCE)
