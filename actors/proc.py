"""What /proc tells of another process: where in the kernel it waits, whose child it is, its size.

Reads /proc only, of processes of this user; the stack is root's to read. Always true: what can't be
read is said to be unknown.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from litemq.actors.silence import Sample

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
        return Stall(state, _wchan(proc) if state == "D" else ())
    return Stall(state, tuple(line.partition("] ")[2].partition("+")[0] for line in lines[:FRAMES]))


def _wchan(proc: Path) -> tuple[str, ...]:
    """The innermost frame that is no scheduler's, which its own user may read, too."""
    try:
        name = (proc / "wchan").read_text()
    except OSError:
        return ()
    return (name,) if name not in ("", "0") else ()


def sample(pid: int, *, silent: bool) -> Sample:
    """Of its main thread; `silent`: also what else may keep it from speaking.

    Source: https://docs.kernel.org/scheduler/sched-stats.html
    """
    stall = look(pid)
    try:
        text = (Path("/proc") / str(pid) / "schedstat").read_text()
        ran_ns, delay_ns = (int(number) for number in text.split()[:2])
    except (OSError, ValueError):
        return Sample(stall.state, by_disk=stall.by_disk)
    short_us = short_of_memory_us(pid) if silent else 0
    return Sample(stall.state, ran_ns, delay_ns, stall.by_disk, short_us)


def short_of_memory_us(pid: int) -> int:
    """How long processes have waited for memory: any of its control group, or all of the machine.

    Since some moment; 0 where the kernel does not tell.
    Source: https://docs.kernel.org/accounting/psi.html
    """
    found = [_pressure_us(Path("/proc/pressure/memory"), "full")]
    try:
        groups = (Path("/proc") / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for group in groups:
        if group.startswith("0::/") and len(group) > len("0::/"):
            tops = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
            paths = (Path(top + group[3:]) / "memory.pressure" for top in tops)
            found += [_pressure_us(path, "some") for path in paths]
    return max(found)


def _pressure_us(path: Path, whose: str) -> int:
    try:
        for line in path.read_text().splitlines():
            kind, *values = line.split()
            if kind == whose:
                return int(values[-1].removeprefix("total="))
    except (OSError, ValueError, IndexError):
        pass
    return 0


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
