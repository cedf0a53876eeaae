"""What /proc tells of another process: where in the kernel it waits, whose child it is, its size.

Reads /proc only, of processes of this user; the stack is root's to read. Always true: what can't be
read is said to be unknown.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

FRAMES = 4
_PAGE = resource.getpagesize()
#: frames of a process that waits for the answer of a FUSE mount, perhaps of its own
_FUSE = ("fuse_", "request_wait_answer")


@dataclass(frozen=True, slots=True)
class Stall:
    """The main thread's state as in /proc/PID/stat, and its innermost kernel frames."""

    state: str
    frames: tuple[str, ...] = ()

    @property
    def by_disk(self) -> bool:
        """Whether it waits in a way that no signal ends, and not for a mount: mostly a disk."""
        fuse = any(frame.startswith(_FUSE) for frame in self.frames)
        return self.state == "D" and bool(self.frames) and not fuse

    def __str__(self) -> str:
        return " < ".join([self.state, *self.frames])


def look(pid: int) -> Stall:
    """Where that process is now; state "?" if it is gone."""
    proc = Path("/proc") / str(pid)
    try:
        # the name, in brackets, may hold anything
        state = (proc / "stat").read_text(errors="replace").rpartition(") ")[2][:1] or "?"
    except OSError:
        return Stall("?")
    try:
        lines = (proc / "stack").read_text().splitlines()
    except OSError:
        return Stall(state)
    return Stall(state, tuple(line.partition("] ")[2].partition("+")[0] for line in lines[:FRAMES]))


def run_delay_ns(pid: int) -> int | None:
    """How long its main thread has waited for a CPU in its life; None if it or that is not known.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    try:
        return int((Path("/proc") / str(pid) / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None


def parent_of(pid: int) -> int:
    """Of a process or a thread; 0 if it is gone."""
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text(errors="replace").rpartition(") ")[2]
        return int(fields.split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def rss_bytes(pid: int) -> int:
    """The memory it has resident; 0 if it is gone."""
    try:
        return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
