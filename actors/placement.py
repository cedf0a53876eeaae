"""Which CPUs an actor runs on. Decided purely, applied to one thread.

A call into the mount wakes the FUSE actor and waits for it. On one CPU that costs half of what it
costs across two, as long as nobody else keeps that CPU busy: so the FUSE actor of a primary has a
CPU that the node's other actors leave to it and to the application. On a replica the applier is the
application. Measured with two CPUs only; with more, `auto` leaves everything to the scheduler.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet

from litemq.config import Config

FUSE_ACTOR = "fuse_capture"
MEASURED_CPUS = 2


def cpus_for(
    actor: str, setting: str, allowed: AbstractSet[int], *, primary: bool
) -> AbstractSet[int]:
    """CPUs for `actor` among those `allowed`, by the key `cpu-affinity`: auto, off, or a number."""
    if setting == "off" or len(allowed) < 2:
        return allowed
    if setting == "auto":
        if len(allowed) != MEASURED_CPUS:
            return allowed
        chosen = min(allowed)
        if not primary:
            return allowed - {chosen}
    else:
        chosen = int(setting)
        if chosen not in allowed:
            return allowed
    return {chosen} if actor == FUSE_ACTOR else allowed - {chosen}


def place(config: Config, actor: str) -> None:
    """Put the calling thread, and those it starts from now on, on the CPUs of `actor`."""
    setting = config.mount.cpu_affinity if config.mount.fuse else "off"
    primary = config.is_primary or config.is_elected
    allowed = os.sched_getaffinity(os.getppid())  # the nursery's: nobody has been placed there
    os.sched_setaffinity(0, cpus_for(actor, setting, allowed, primary=primary))
