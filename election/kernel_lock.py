"""A lock that the kernel frees when its holder dies, however it dies.

Always true: the locks are OFD locks on one byte of a file. They belong to the open file, so another
descriptor of the same file in this process does not drop them; a child that inherits the
descriptor by a fork without an exec would share them. Looking never takes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from struct import Struct

_FLOCK = Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_REFUSED = (errno.EAGAIN, errno.EACCES)


class KernelLock:
    """One lock file of a name; the file is made when first needed and left where it is."""

    def __init__(self, path: Path, *, byte: int = 0) -> None:
        """Each byte is a lock of its own."""
        self._path = path
        self._byte = byte
        self._fd = -1

    @property
    def held(self) -> bool:
        """Also false once the file was removed or replaced: others would lock another one."""
        if self._fd < 0:
            return False
        try:
            there, here = os.stat(self._path), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def take(self) -> bool:
        """False if another holds it. Raises OSError where the file can't be made or opened."""
        if self.held:
            return True
        self.free()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._byte, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            os.close(fd)
            if error.errno in _REFUSED:
                return False
            raise
        self._fd = fd
        if not self.held:  # removed between the open and the lock
            self.free()
            return False
        return True

    def free(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)  # the last descriptor of this open file: the lock goes with it
            self._fd = -1


def is_locked(path: Path, *, byte: int = 0, count: int = 1) -> bool:
    """Whether anyone holds one of these, this process included; nobody holds a missing file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    finally:
        os.close(fd)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK
