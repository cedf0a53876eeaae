"""What the kernel tells of the locks that programs hold.

Reads /proc/locks, which every process may. Always true: what the kernel does not tell is said to be
unknown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path("/proc/locks")
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class KernelLock:
    """A lock on bytes of a file, as it is held; also by processes that may only read the file."""

    pid: int
    """Of the process; -1 where the lock belongs to an open file (OFD)."""
    device: tuple[int, int]
    """Major and minor number."""
    inode: int
    writing: bool
    first: int
    last: float
    """The last byte; infinite: to the end of the file."""

    def covers(self, first: int, last: int) -> bool:
        return self.first <= first and self.last >= last


def held_locks(inodes: Collection[int] | None = None) -> list[KernelLock] | None:
    """All that are held now on files with these inodes (None: on any), those of whole files (flock)
    aside; None if that can't be told.
    """
    try:
        lines = _read().splitlines()
    except OSError:
        return None
    if inodes is not None:  # a machine may have thousands
        marks = [f":{inode} " for inode in inodes]
        lines = [line for line in lines if any(mark in line for mark in marks)]
    return [lock for line in lines if (lock := _parse(line.split())) is not None]


def _read() -> str:
    fd = os.open(LOCKS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("ascii")


def _parse(words: list[str]) -> KernelLock | None:
    # 1: POSIX  ADVISORY  WRITE 4711 00:2f:17 1073741824 1073742335
    if words[1] not in ("POSIX", "OFDLCK"):  # also a wait: "1: -> POSIX ..."
        return None
    _, _, _, kind, pid, file, first, last = words
    major, minor, inode = file.split(":")
    return KernelLock(
        pid=int(pid),
        device=(int(major, 16), int(minor, 16)),
        inode=int(inode),
        writing=kind == "WRITE",
        first=int(first),
        last=math.inf if last == "EOF" else int(last),
    )
