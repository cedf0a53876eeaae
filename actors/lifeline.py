"""How the processes of a node end with it, and how one of them knows that the others have.

The lifeline is a pipe. The nursery makes it before its first child, so whoever is forked holds the
writing end from the first moment on; who can't accept commits lets go of it. The kernel lets go of
it with the process, however that dies, and not before. So the end of the pipe says what no wait can
say for certain: neither the nursery, which alone starts mounts, nor one that serves is there.

One actor outlives the others by a moment to act on that. Always true: it is told of their death by
a signal, from the kernel or from the nursery, and the kernel ends it when its time is up, whatever
it hangs in.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import select
import signal
import time
from typing import Final

#: who outlives the others, and for how long at most; its own limit may be lower
SURVIVOR: Final = "election_watcher"
LONGEST_S: Final = 1.0
#: what the survivor gets when the nursery is gone; until it has a handler, it dies of that
ORPHANED: Final = signal.SIGUSR1
_PR_SET_PDEATHSIG: Final = 1

#: of this process: the reading end, the writing end
_ends = [-1, -1]
_start = ""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone.

    `parent` is its pid, as that knew it before it made this process: it may be gone by now.
    """
    _when_parent_dies(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def make() -> None:
    """In the nursery, before its first child."""
    global _start
    _ends[:] = os.pipe2(os.O_CLOEXEC)
    _start = secrets.token_hex(8)


def start() -> str:
    """A random name of this start of the node: all its processes have it, and no others."""
    assert _start, "no nursery has made this process"
    return _start


def let_go() -> None:
    """This process can't accept commits, nor have another accept them."""
    if _ends[1] >= 0:
        os.close(_ends[1])
        _ends[1] = -1


def outlive() -> None:
    """Have the kernel not kill this process with the nursery, but tell it: `ORPHANED`."""
    let_go()
    _when_parent_dies(ORPHANED)


def has_ended(within_s: float) -> bool:
    """Wait until no process of the node can accept commits any more; False if that takes longer."""
    end_s = time.monotonic() + within_s
    end = select.poll()  # not select(): it knows no descriptor above 1,023
    end.register(_ends[0], select.POLLIN)
    while (remaining_s := end_s - time.monotonic()) > 0:
        if end.poll(remaining_s * 1000):
            return os.read(_ends[0], 1) == b""
    return False


def end_after(seconds: float) -> None:
    """The kernel kills this process then, unless this is called again before."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _when_parent_dies(number: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
