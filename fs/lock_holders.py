"""Which programs hold locks on a database: for messages to people, and nothing else.

Asks the file system for the file's number, and /proc for the rest. Always true: what can't be told
is left out.
"""

from __future__ import annotations

import os
from pathlib import Path

from litemq.fs.kernel_locks import held_locks

_PROC = Path("/proc")


def lock_holders(path: str) -> list[str]:
    """Processes with a lock on the database or on its WAL index, as "4711 (python3)"."""
    files = set()
    for name in (path, f"{path}-shm"):
        try:
            found = os.stat(name)
        except OSError:
            continue
        files.add(((os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino))
    pids = {lock.pid for lock in held_locks() or () if (lock.device, lock.inode) in files}
    return [f"{pid} ({_name(pid)})" for pid in sorted(pids) if pid > 0 and pid != os.getpid()]


def held_by(path: str) -> str:
    """To end a sentence about a locked database with; "" if nobody can be named."""
    holders = lock_holders(path)
    return f"; process {', '.join(holders)} holds a lock on it" if holders else ""


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
