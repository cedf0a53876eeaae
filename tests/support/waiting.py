"""Waiting for a fact, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05


def eventually(
    check: Callable[[], Any], *, timeout_s: float = 20.0, what: str = "", until: Any = True
) -> Any:
    """Call `check` until it gives something true (or `until`, if named); what it gave.

    An AssertionError of the check counts as "not yet"; the last one is shown when time is up.
    """
    deadline_s = time.monotonic() + timeout_s
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
        if time.monotonic() > deadline_s:
            told = f": {what}" if what else ""
            raise AssertionError(
                f"not within {timeout_s:g} s{told}; last: {reason or repr(found)[:2000]}"
            ) from reason
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
