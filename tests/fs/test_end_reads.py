"""Reads in a dead mount are ended, whatever the files there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litemq.fs import dead_mount


@pytest.mark.parametrize("length", [0, 100])
def test_index_when_it_is_too_short_to_be_mapped_then_it_is_left_alone(
    tmp_path: Path, length: int
) -> None:
    """It may be empty, just made: the supervisor, which looks at it, goes on."""
    path = tmp_path / "a.db-shm"
    path.write_bytes(bytes(length))
    fd = os.open(path, os.O_RDWR)
    try:
        dead_mount._take_away(fd, str(path))
    finally:
        os.close(fd)
    assert path.stat().st_size == length
