"""Free port triples on the loopback interface, also when several test runs share the machine.

Below the ephemeral range, so that no connection takes one by chance; a lock file per triple keeps
runs apart, and is free again when the run that holds it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST, STEP = 12000, 31996, 4
_taken: dict[int, int] = {}


def free_port() -> int:
    """The first of three free ports; they stay this run's until `release_ports`."""
    directory = Path(tempfile.gettempdir()) / f"litemq-test-ports-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    for _ in range(200):
        port = random.randrange(FIRST, LAST, STEP)
        if port in _taken:
            continue
        lock = os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for each in range(port, port + 3):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", each))
        except OSError:
            os.close(lock)
            continue
        _taken[port] = lock
        return port
    raise AssertionError("no three free ports in a row")


def release_ports() -> None:
    """Give back every triple of this run."""
    for lock in _taken.values():
        os.close(lock)
    _taken.clear()
