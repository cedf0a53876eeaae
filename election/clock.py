"""The clock of leases, and what two looks at a machine's clocks tell.

Leases are counted on the boot clock. It never jumps; and unlike the monotonic clock, by which
timers run, it does not stand still while the machine sleeps: a lease ends meanwhile, elsewhere.
"""

from __future__ import annotations

import time
from typing import Final

from msgspec import Struct

#: less than this may be a clock that is set right, or a process that had to wait
_JUMP_S: Final = 1.0


def now_s() -> float:
    """Seconds; every deadline of a lease and of what is asked about it is one of these."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clocks(Struct, frozen=True):
    """Seconds at one moment: since the boot, of these awake, since 1970."""

    boot_s: float
    awake_s: float
    wall_s: float


def read() -> Clocks:
    """Now."""
    return Clocks(now_s(), time.monotonic(), time.time())


def jump(before: Clocks, after: Clocks) -> str:
    """What has happened to the clocks between two looks, for people; empty if nothing has."""
    passed_s = after.boot_s - before.boot_s
    slept_s = passed_s - (after.awake_s - before.awake_s)
    if slept_s > _JUMP_S:
        return f"the machine slept for {slept_s:.1f} s; what a lease allowed is over if it ended"
    moved_s = after.wall_s - before.wall_s - passed_s
    if abs(moved_s) > _JUMP_S:
        way = "forward" if moved_s > 0 else "back"
        return (
            f"the wall clock was set {way} by {abs(moved_s):.1f} s; leases do not depend on it, "
            "times in logs and in `status` do"
        )
    return ""
