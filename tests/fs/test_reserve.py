"""Space that is kept back until nobody else can have any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from disks import MIB, SmallDisk, disk

from litemq.fs.reserve import Reserve

__all__ = ["disk"]


def free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


@pytest.fixture
def reserve(disk: SmallDisk) -> Reserve:
    return Reserve(disk.path / "reserve")


def test_reserve_when_kept_then_its_blocks_are_taken(disk: SmallDisk, reserve: Reserve) -> None:
    """A sixteenth of a small disk; keeping it again takes nothing."""
    before = free(disk.path)
    reserve.keep()
    reserve.keep()
    assert not reserve.used
    taken = before - free(disk.path)
    assert 64 * 1024 <= taken <= 16 * MIB


def test_reserve_when_given_then_there_is_room_once(disk: SmallDisk, reserve: Reserve) -> None:
    """A full disk has room again, and says that the reserve is used."""
    reserve.keep()
    disk.fill()
    assert free(disk.path) == 0
    assert reserve.give()
    assert reserve.used
    assert free(disk.path) > 0
    assert not reserve.give()


def test_reserve_when_there_is_no_room_then_it_is_not_kept(
    disk: SmallDisk, reserve: Reserve
) -> None:
    """And it is when there is."""
    disk.fill()
    reserve.keep()
    assert reserve.used
    disk.empty()
    reserve.keep()
    assert not reserve.used
