"""Small real file systems: to be filled to the last byte, or to lose their power."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import require_program, require_root
from waiting import eventually

MIB = 1 << 20
_numbers = itertools.count(1)


class SmallDisk:
    """A file system in memory that is as full as a test wants it to be."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "litemq-test-disk", path],
            check=True,
        )

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bfree * found.f_frsize

    def leave(self, size: int) -> None:
        """A file that has nothing to do with anybody takes all but so many bytes."""
        with open(self.path / "filler", "wb") as file:
            file.write(bytes(self.free_bytes - size))

    def fill(self) -> None:
        """To the last byte."""
        fd = os.open(self.path / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, bytes(1 << 16))
        finally:
            os.close(fd)
        assert not self.free_bytes

    def empty(self) -> None:
        """Take that file away; everything else stays."""
        (self.path / "filler").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)


#: XFS and ext4 have it; 2: flush nothing, not even the log
_FS_IOC_SHUTDOWN = 0x8004587D
_LOSE_EVERYTHING = struct.pack("=I", 2)


class PoweredDisk:
    """A file system on a loop device, which can lose its power: what it has not synced is gone.

    It is shut down in the way in which file systems are tested for power failures: from one moment
    on nothing reaches the device, neither pages nor the file system's own log.
    """

    def __init__(self, path: Path, file_system: str) -> None:
        self.path = path
        self._image = path.with_suffix(".img")
        path.mkdir(parents=True)
        os.truncate(os.open(self._image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), 320 * MIB)
        require_program(f"mkfs.{file_system}")
        subprocess.run([f"mkfs.{file_system}", "-q", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def cut(self) -> None:
        """Cut the power. Whoever uses the disk gets errors from now on."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, _LOSE_EVERYTHING)
        finally:
            os.close(fd)

    def restore(self) -> None:
        """Switch it on again; nobody may use it any more."""
        eventually(self._unmounted, what=f"{self.path} is in use no more")
        self._mount()

    def _unmounted(self) -> bool:
        return (
            subprocess.run(["umount", self.path], check=False, capture_output=True).returncode == 0
        )

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self._image.unlink()


@pytest.fixture
def powered_disk(run_directory: Path, request: pytest.FixtureRequest) -> Iterator[PoweredDisk]:
    """Of the file system that is the parameter. Named before `new_cluster`."""
    require_root()
    made = PoweredDisk(run_directory / f"disk{next(_numbers)}", request.param)
    yield made
    made.close()


@pytest.fixture
def disk(run_directory: Path) -> Iterator[SmallDisk]:
    """Of 24 MiB. Named before `new_cluster`, so that it goes after the nodes."""
    require_root()
    made = SmallDisk(run_directory / f"disk{next(_numbers)}", 24 * MIB)
    yield made
    made.close()
