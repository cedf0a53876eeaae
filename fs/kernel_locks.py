"""What the kernel tells of the locks that programs hold on files of the mount.

Reads /proc/locks, which every process may. Always true: SQLite deletes a WAL and its index only
under its EXCLUSIVE lock on the database (sqlite3WalClose); a lock on the same file in a mount that
has died is another one, since that is another device.
"""

from __future__ import annotations

from pathlib import Path

from litemq.fs.locks import RESERVED_BYTE, SHARED_FIRST, SHARED_SIZE

LOCKS = Path("/proc/locks")


def is_exclusive(minor: int, inode: int) -> bool:
    """Whether somebody has SQLite's EXCLUSIVE lock on that file of the device 0:`minor`.

    True as well where the kernel does not tell.
    """
    return _held(minor, inode, (SHARED_FIRST, SHARED_FIRST + SHARED_SIZE - 1))


def is_written(minor: int, inode: int) -> bool:
    """Whether somebody has at least the RESERVED lock; as above."""
    exclusive = SHARED_FIRST, SHARED_FIRST + SHARED_SIZE - 1
    return _held(minor, inode, (RESERVED_BYTE, RESERVED_BYTE), exclusive)


def _held(minor: int, inode: int, *ranges: tuple[int, int]) -> bool:
    """Whether any of these is locked for writing."""
    try:
        lines = LOCKS.read_text("ascii").splitlines()
    except OSError:
        return True
    file = f"00:{minor:02x}:{inode}"
    return any(_covers(line, file, *each) for line in lines for each in ranges)


def _covers(line: str, file: str, first: int, last: int) -> bool:
    # 1: POSIX  ADVISORY  WRITE 4711 00:2f:17 1073741824 1073742335
    words = line.split()
    if words[3:4] != ["WRITE"] or words[5] != file:
        return False  # also who waits for a lock: "1: -> POSIX ..."
    end = float("inf") if words[7] == "EOF" else int(words[7])
    return int(words[6]) <= first and end >= last
