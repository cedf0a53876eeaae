"""Which programs hold locks on a database: for messages to people, and nothing else.

Asks the file system for the file's number, and /proc for the rest. Always true: what can't be told
is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from litemq.fs.kernel_locks import KernelLock, held_locks
from litemq.fs.locks import WAL_IN_USE_BYTE, WAL_WRITE_BYTE

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


def stopped_holders(mount: str, paths: Iterable[str]) -> dict[str, str]:
    """By path, the stopped processes in whose locks others may have to wait for ever; in words.

    A connection that is idle in WAL mode shares the database and its index with all others: that is
    no such lock. `paths`, of databases in the mount, are looked at only if anybody is stopped.
    """
    stopped = _locks_of_stopped(mount)
    found: dict[str, str] = {}
    for path in paths if stopped else ():
        file, index = _inode(path), _inode(f"{path}-shm")
        pids = {lock.pid for lock in stopped if file and _in_the_way(lock, file, index)}
        if pids:
            names = ", ".join(f"{pid} ({_name(pid)})" for pid in sorted(pids))
            found[path] = f"process {names} is stopped and holds a lock on it"
    return found


def _locks_of_stopped(mount: str) -> list[KernelLock]:
    try:
        device = os.stat(mount).st_dev
    except OSError:
        return []
    there = os.major(device), os.minor(device)
    locks = [lock for lock in held_locks() or () if lock.pid > 0 and lock.device == there]
    stopped = {pid for pid in {lock.pid for lock in locks} if _is_stopped(pid)}
    return [lock for lock in locks if lock.pid in stopped]


def _in_the_way(lock: KernelLock, file: int, index: int) -> bool:
    """Whether it is more than what a connection in WAL mode always has. `index`: 0 if none."""
    if lock.inode == file:
        return lock.writing or not index
    in_wal = lock.first >= WAL_WRITE_BYTE and lock.last < WAL_IN_USE_BYTE
    return lock.inode == index and in_wal


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _is_stopped(pid: int) -> bool:
    """By SIGSTOP, a terminal, or a debugger."""
    try:
        state = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(") ")[2]
    except OSError:
        return False
    return state.startswith(("T", "t"))


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
