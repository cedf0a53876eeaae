"""Small real file systems, to be filled to the last byte."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import require_root

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


@pytest.fixture
def disk(run_directory: Path) -> Iterator[SmallDisk]:
    """Of 24 MiB. Named before `new_cluster`, so that it goes after the nodes."""
    require_root()
    made = SmallDisk(run_directory / f"disk{next(_numbers)}", 24 * MIB)
    yield made
    made.close()
