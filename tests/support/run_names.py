"""The name of a test run, from which the next one tells whether it has ended."""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = f"litemq-test-{os.getuid()}-"


def run_name() -> str:
    """Of this run: its process and the moment that began."""
    return f"{PREFIX}{os.getpid()}-{_start_time(os.getpid())}"


def is_dead(name: str) -> bool:
    """Whether the run that this name begins with is gone."""
    pid, start, *_ = name.removeprefix(PREFIX).split("-")
    return _start_time(int(pid)) != start


def _start_time(pid: int) -> str:
    """When the process began, in clock ticks since the boot; with the pid, one process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
