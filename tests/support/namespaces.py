"""Hosts of tests (bench/hosts.py), whose names say which test run made them: those of a killed run
are found and removed by the next.
"""

from __future__ import annotations

import itertools
import os

from capabilities import require_program, require_root
from run_names import PREFIX, is_dead, run_name

from litemq.bench import hosts
from litemq.bench.hosts import Host

__all__ = ["Host", "Network", "sweep_dead_namespaces"]

_numbers = itertools.count(1)


class Network(hosts.Network):
    """Hosts that reach each other until something is cut."""

    def __init__(self, *names: str) -> None:
        require_root()
        require_program("ip")
        require_program("nsenter")
        super().__init__(f"{run_name()}-{next(_numbers)}", names)


def sweep_dead_namespaces() -> None:
    """Remove those of runs whose process is gone."""
    if hosts.NETNS.exists() and os.geteuid() == 0:
        for path in hosts.NETNS.glob(f"{PREFIX}*"):
            if is_dead(path.name):
                hosts.remove(path.name)
