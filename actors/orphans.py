"""Orphans that the kernel gives to this process, because it is PID 1 of a container or a subreaper.

Owns nothing of them. Children of its own are waited for by whoever started them. Always true: a
child is taken for an orphan only when it has been dead for two looks and nobody has waited for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_PR_GET_CHILD_SUBREAPER = 37
_TASKS = Path("/proc/self/task")


def adopts() -> bool:
    """Whether orphans come to this process."""
    flag = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return os.getpid() == 1 or bool(flag.value)


class Orphans:
    """The dead among the children of this process."""

    def __init__(self) -> None:
        self._adopts = adopts()
        self._dead: set[int] = set()

    def reap(self, own: int) -> int:
        """Wait for those that were dead at the last look already, but for `own`; how many."""
        if not self._adopts:
            return 0
        dead = {pid for pid in _children() if pid != own and _is_dead(pid)}
        late, self._dead = dead & self._dead, dead
        for pid in late:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._dead -= late
        return len(late)


def _children() -> set[int]:
    found: set[int] = set()
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # the thread has ended, or the kernel has no such file
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _is_dead(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(") ")[2].startswith("Z")
