"""Which limit keeps this user from having one more process or thread, and what raises it.

Reads /proc and the control groups only. Always true: a limit is named only where little is left of
it; where none can be seen, all are.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

#: what fork and exec say then
USED_UP = (errno.EAGAIN, errno.ENOMEM)
#: pause between attempts (seconds)
PAUSE_S = 0.5
#: so few left count as none: others come and go between the refusal and this look
NEAR = 16
_EVERYWHERE = (
    "RLIMIT_NPROC (`ulimit -u`), pids.max of the control group (TasksMax= of systemd), "
    "sysctl kernel.threads-max and kernel.pid_max"
)


def reached() -> str:
    """Those that are used up, in words."""
    return "; ".join(_reached()) or _EVERYWHERE


def near() -> bool:
    """Whether any is."""
    return any(True for _ in _reached())


def _reached() -> Iterator[str]:
    for folder in _control_groups():
        most, used = _number(folder / "pids.max"), _number(folder / "pids.current")
        if most is not None and used is not None and most - used < NEAR:
            yield f"pids.max of {folder} is {most}: TasksMax= of systemd"
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() and soft != resource.RLIM_INFINITY and soft - _threads_of_user() < NEAR:
        yield f"RLIMIT_NPROC is {soft}: `ulimit -u`, LimitNPROC= of systemd"
    used = _all_threads()
    for name in ("threads-max", "pid_max"):
        most = _number(Path("/proc/sys/kernel") / name)
        if most is not None and most - used < NEAR:
            yield f"sysctl kernel.{name} is {most}"


def _control_groups() -> Iterator[Path]:
    """That of this process which counts processes, and those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        if controllers:
            if "pids" not in controllers.split(","):
                continue
            tops = [f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/pids"]
        for top in dict.fromkeys(tops):
            folder = Path(top + path.rstrip("/"))
            while len(folder.parts) > len(Path(top).parts):
                if (folder / "pids.max").exists():
                    yield folder
                folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None


def _threads_of_user() -> int:
    count, user = 0, os.getuid()
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                if entry.stat().st_uid == user:
                    count += len(os.listdir(f"{entry.path}/task"))
            except OSError:
                continue
    return count


def _all_threads() -> int:
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, IndexError, ValueError):
        return 0
