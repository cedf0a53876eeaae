"""SQLite's SHARED lock, taken as any client takes it, and a look at its RESERVED lock.

Owns: the lock bytes of a database file. Never waits: what cannot be had at once is refused.
Always true: the locks are OFD locks. They belong to the open file, so closing another descriptor
of the same file in this process does not drop them, as it would ordinary POSIX locks.

Source: https://www.sqlite.org/lockingv3.html; the byte numbers are those of SQLite's os.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from struct import Struct
from typing import Self

PENDING_BYTE = 0x40000000
RESERVED_BYTE = PENDING_BYTE + 1
SHARED_FIRST = PENDING_BYTE + 2
SHARED_SIZE = 510
#: of `-shm` (wal.c: UNIX_SHM_BASE 120, WAL_WRITE_LOCK 0, WAL_CKPT_LOCK 1; os_unix.c: UNIX_SHM_DMS)
WAL_WRITE_BYTE = 120
WAL_CHECKPOINT_BYTE = 121
WAL_IN_USE_BYTE = 128

_FLOCK = Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_REFUSED = (errno.EAGAIN, errno.EACCES)


class SharedLock:
    """While held, no writer can commit in a rollback mode, and no one can leave WAL mode.

    `fd` must be open for reading, on its own open file description: do not share it with others
    who lock. For `with`, `take` must have been successful.
    """

    __slots__ = ("_fd", "held")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.held = False

    def take(self) -> bool:
        """False if a writer is about to commit or commits (PENDING or EXCLUSIVE)."""
        if self.held:
            return True
        if not _lock(self._fd, fcntl.F_RDLCK, PENDING_BYTE, 1):
            return False
        try:
            self.held = _lock(self._fd, fcntl.F_RDLCK, SHARED_FIRST, SHARED_SIZE)
        finally:
            _lock(self._fd, fcntl.F_UNLCK, PENDING_BYTE, 1)
        return self.held

    def release(self) -> None:
        if self.held:
            _lock(self._fd, fcntl.F_UNLCK, SHARED_FIRST, SHARED_SIZE)
            self.held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


class WalWriteLock:
    """While held, nobody commits to the WAL and nobody starts it over; readers go on.

    A checkpoint may copy pages meanwhile: those whose newest image is in the WAL. SQLite's own
    lock against it is left alone, for a program's checkpoint does not wait for that one, whatever
    its busy timeout: it would fail.

    `fd` is `-shm` of the mount, open for writing; -1: there is nothing to lock. It is the lock's
    own, and closed with `release`.
    """

    __slots__ = ("_fd", "held")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.held = False

    def take(self) -> bool:
        """False if somebody is in a write transaction."""
        self.held = self.held or _lock(self._fd, fcntl.F_WRLCK, WAL_WRITE_BYTE, 1)
        return self.held

    def release(self) -> None:
        if self.held:
            _lock(self._fd, fcntl.F_UNLCK, WAL_WRITE_BYTE, 1)
            self.held = False
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):  # ENOTCONN when the mount has died
                os.close(fd)


def writer_active(fd: int) -> bool:
    """Whether someone holds RESERVED, that is has begun to write in a rollback mode.

    Also true of a lock held by this process through another descriptor, if it is SQLite's.
    """
    return _held(fd, RESERVED_BYTE)


def committing(fd: int) -> bool:
    """Whether someone writes the database, or is about to (EXCLUSIVE or PENDING).

    That is when `SharedLock` could not be taken. `fd` must be open for reading.
    """
    return _held(fd, PENDING_BYTE, fcntl.F_RDLCK) or _held(
        fd, SHARED_FIRST, fcntl.F_RDLCK, SHARED_SIZE
    )


def wal_writer_active(fd: int) -> bool:
    """Whether someone is in a write transaction in WAL mode; `fd` is `-shm` of the mount."""
    return _held(fd, WAL_WRITE_BYTE)


def wal_index_in_use(fd: int) -> bool:
    """Whether a connection shares the WAL index, and so goes by it; `fd` is `-shm` of the mount.

    The first one to open an index that nobody uses makes it anew, from the WAL.
    """
    return _held(fd, WAL_IN_USE_BYTE)


def _held(fd: int, byte: int, kind: int = fcntl.F_WRLCK, length: int = 1) -> bool:
    """Whether a lock of this kind could not be had."""
    query = _FLOCK.pack(kind, os.SEEK_SET, byte, length, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _lock(fd: int, kind: int, start: int, length: int) -> bool:
    try:
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as exc:
        if exc.errno in _REFUSED:
            return False
        raise
    return True
