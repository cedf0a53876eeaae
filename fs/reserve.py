"""Space kept back on the disk for pages that nobody can refuse any more.

Where writes are cached, a page of a WAL can be committed before it comes here. On a full disk it
gets the reserve; meanwhile whoever asks for a sync is refused, so that little more is committed.
Owns one file beside the backing files, never written, only allocated. Always true: it is there, or
`used` says that it is not.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: as much as the kernel lets one mount keep unwritten on a machine of some GiB, or a part of a
#: small disk
RESERVE_BYTES = 16 * 1024 * 1024
SMALLEST_BYTES = 64 * 1024
PART_OF_DISK = 16


class Reserve:
    """One file's worth of blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.used = True

    def keep(self) -> None:
        """Take the space, or as much of it as there is; nothing happens if it is taken."""
        if self.used:
            with contextlib.suppress(OSError):  # tried again soon
                self._allocate()

    def _allocate(self) -> None:
        disk = os.statvfs(self._path.parent)
        size = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // PART_OF_DISK)
        if size < SMALLEST_BYTES or disk.f_bavail * disk.f_frsize < 2 * size:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            self.used = False
        finally:
            if self.used:
                os.ftruncate(fd, 0)
            os.close(fd)

    def give(self) -> bool:
        """Give the space to whoever needs it now; false if there is none."""
        if self.used:
            return False
        self.used = True
        self.remove()
        return True

    def remove(self) -> None:
        """Give it back for good."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
