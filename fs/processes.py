"""What /proc tells of the programs that use a mount: whose thread asks, and what it has open.

Reads /proc only. Always true: what can't be read (a process of another PID namespace or another
user, or one that is gone) is said to be unknown.
"""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def process_of(thread: int) -> int:
    """The process of a thread; 0 if that is unknown."""
    if not thread:
        return 0
    try:
        status = (_PROC / str(thread) / "status").read_bytes()
    except OSError:
        return 0
    return int(status.partition(b"\nTgid:\t")[2].partition(b"\n")[0] or 0)


def may_write(thread: int, inode: int, name: str) -> bool | None:
    """Whether the process of this thread has the file of that inode and name open for writing.

    However it came by that: opened by a thread that has ended, inherited, or sent. None if that is
    unknown.
    """
    directory = _PROC / str(thread)
    if not thread:
        return None
    try:
        descriptors = os.listdir(directory / "fdinfo")
    except OSError:
        return None
    return any(_writes(directory, each, inode, name) for each in descriptors)


def _writes(directory: Path, descriptor: str, inode: int, name: str) -> bool:
    try:
        info = (directory / "fdinfo" / descriptor).read_bytes()
        if b"\nino:\t%d\n" % inode not in info:
            return False
        path = os.readlink(directory / "fd" / descriptor)
    except OSError:  # closed meanwhile
        return False
    flags = int(info.partition(b"flags:\t")[2].partition(b"\n")[0], 8)
    writing = flags & os.O_ACCMODE != os.O_RDONLY
    return writing and os.path.basename(path.removesuffix(" (deleted)")) == name
