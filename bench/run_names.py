"""The name of a run, from which the next one tells whether it has ended."""

from __future__ import annotations

import os
from pathlib import Path


def run_name(prefix: str) -> str:
    """Of this process: the prefix, its number, and the moment it began."""
    return f"{prefix}{os.getpid()}-{_start_time(os.getpid())}"


def is_dead(prefix: str, name: str) -> bool:
    """Whether the run that this name begins with is gone."""
    pid, start, *_ = name.removeprefix(prefix).split("-")
    return _start_time(int(pid)) != start


def _start_time(pid: int) -> str:
    """When the process began, in clock ticks since the boot; with the pid, one process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
