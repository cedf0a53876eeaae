"""For how long the kernel may take writes into its cache without asking.

Where writes are cached, a commit in WAL mode need not come to the mount at all. But before every
write the kernel looks whether what it knows of the file's attributes still counts, and asks the
mount if not. So their lifetime is a lease: a mount that has died, is stopped or refuses commits is
written to no longer than that. Owns these times only. Source: fuse_cache_write_iter() and
fuse_update_attributes() in fs/fuse of the Linux kernel.
"""

from __future__ import annotations

import math

#: where the primary is fixed, and of databases anywhere (seconds)
CACHED_WRITES_S = 0.2
#: of WALs and journals where it is elected: 50 calls a second while one is written
LEASED_WRITES_S = 0.02
#: by so much the kernel may let a write in too late: its clock has ticks of up to 10 ms, and rounds
CLOCK_S = 0.025


def lifetime_s(left_s: float) -> float:
    """Of a WAL's attributes, when commits are accepted for so many seconds more."""
    if left_s == math.inf:
        return CACHED_WRITES_S
    return max(min(left_s - CLOCK_S, LEASED_WRITES_S), 0.0)
