"""What a test run leaves behind, on purpose or not: directories, mounts, processes.

All of a run lies below one directory named after its process; what must not wait for a disk, below
one of the same name in memory. Every process it starts has its working directory in the first, so
that all can be found, even those of a run that was killed. Never kills a process of anybody else.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from run_names import PREFIX, is_dead, run_name
from waiting import eventually

from litemq.fs import mount

#: where what is synced waits for no disk, and so for no test that fills one
_MEMORY = Path("/dev/shm")


def make_run_directory() -> Path:
    """The directory of this run, named after its process and the moment that began."""
    path = Path(tempfile.gettempdir()) / run_name()
    path.mkdir(mode=0o755, exist_ok=True)
    return path.resolve()


def in_memory(run_directory: Path) -> Path:
    """The directory of the same run for what must not wait for a disk."""
    path = _MEMORY / run_directory.name
    path.mkdir(mode=0o755, exist_ok=True)
    return path


def remove(run_directory: Path) -> None:
    """Take away what a run has left."""
    clear(run_directory)
    shutil.rmtree(_MEMORY / run_directory.name, ignore_errors=True)
    shutil.rmtree(run_directory, ignore_errors=True)


def sweep_dead_runs() -> None:
    """Take away what runs left whose process is gone."""
    for root in (Path(tempfile.gettempdir()), _MEMORY):
        for path in root.glob(f"{PREFIX}*"):
            if is_dead(path.name):
                remove(path.resolve())


def clear(directory: Path) -> None:
    """Kill every process and detach every mount below a directory of ours."""
    for pid in processes_below(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in mounts_below(directory):
        mount.abort(path)
        # a small disk of a test; another user's mount, which even root can't ask how it is
        while os.geteuid() == 0 and mount.is_mounted(path):
            subprocess.run(["umount", "--lazy", path], check=True)
        mount.clean_stale_mount(path)
    eventually(lambda: not processes_below(directory), what="killed processes are gone")


def mounts_below(directory: Path) -> list[str]:
    """Mount points below the directory; the inner ones first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # the kernel writes blanks and backslashes as three octal digits
        path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if path.startswith(f"{directory}/"):
            found.append(path)
    return sorted(found, reverse=True)


def processes_below(directory: Path) -> list[int]:
    """Processes whose working directory lies below, zombies and this one aside."""
    found = []
    for pid in _pids():
        try:
            cwd = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            continue
        if (cwd == str(directory) or cwd.startswith(f"{directory}/")) and pid != os.getpid():
            found.append(pid)
    return found


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has asked for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] == "Z"


def describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return f"{pid} (gone)"
    return f"{pid} {words.decode(errors='replace').strip()[:120]}"


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
