"""Whose locks the kernel tells of, and for how long it may cache writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sql_process import SqlProcess

from litemq.fs import kernel_locks
from litemq.fs.kernel_cache import CACHED_WRITES_S, LEASED_WRITES_S, lifetime_s

LINES = """\
1: POSIX  ADVISORY  WRITE 4711 00:2f:17 1073741824 1073742335
2: POSIX  ADVISORY  READ  4712 00:2f:18 1073741826 1073742335
3: POSIX  ADVISORY  WRITE 4713 00:2f:19 1073741825 1073741825
3: -> POSIX  ADVISORY  WRITE 4714 00:2f:19 1073741826 1073742335
4: OFDLCK ADVISORY  WRITE -1 00:2f:20 0 EOF
5: FLOCK  ADVISORY  WRITE 4715 fe:00:21 0 EOF
"""


@pytest.mark.parametrize(
    ("inode", "exclusive"), [(17, True), (18, False), (19, False), (20, True), (21, False)]
)
def test_lock_when_it_covers_what_readers_share_then_it_is_exclusive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inode: int, exclusive: bool
) -> None:
    """Of that file on that device; not a reader's, nor a writer's that has begun, nor a wait."""
    locks = tmp_path / "locks"
    locks.write_text(LINES)
    monkeypatch.setattr(kernel_locks, "LOCKS", locks)
    assert kernel_locks.is_exclusive(0x2F, inode) is exclusive
    assert not kernel_locks.is_exclusive(0x2E, inode)


def test_lock_when_sqlite_holds_it_then_the_kernel_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it stands in this kernel's own list, but for the device."""
    path = tmp_path / "a.db"
    with SqlProcess(path) as app:
        app.script("CREATE TABLE t(x)", "BEGIN EXCLUSIVE")
        here = path.stat()
        device = f"{os.major(here.st_dev):02x}:{os.minor(here.st_dev):02x}"
        told = kernel_locks.LOCKS.read_text().replace(f" {device}:", " 00:ff:")
        copy = tmp_path / "locks"
        copy.write_text(told)
        monkeypatch.setattr(kernel_locks, "LOCKS", copy)
        assert kernel_locks.is_exclusive(0xFF, here.st_ino)


def test_locks_when_the_kernel_does_not_tell_then_nobody_is_kept_from_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it was before anyone looked."""
    monkeypatch.setattr(kernel_locks, "LOCKS", tmp_path / "none")
    assert kernel_locks.is_exclusive(1, 1)


@pytest.mark.parametrize(
    ("left_s", "lifetime"),
    [
        (float("inf"), CACHED_WRITES_S),
        (1.0, LEASED_WRITES_S),
        (0.03, 0.005),
        (0.02, 0.0),
        (-5.0, 0.0),
    ],
)
def test_attributes_when_a_lease_ends_then_they_do_not_outlive_it(
    left_s: float, lifetime: float
) -> None:
    """Whatever the kernel's clock adds."""
    assert lifetime_s(left_s) == pytest.approx(lifetime)
