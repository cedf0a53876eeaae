"""Whose locks the kernel tells of, and for how long it may cache writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sql_process import SqlProcess

from litemq.fs import kernel_locks
from litemq.fs.kernel_cache import CACHED_WRITES_S, LEASED_WRITES_S, lifetime_s
from litemq.fs.kernel_locks import KernelLock, held_locks
from litemq.fs.sqlite_acts import EXCLUSIVE

LINES = """\
1: POSIX  ADVISORY  WRITE 4711 00:2f:17 1073741824 1073742335
2: POSIX  ADVISORY  READ  4712 00:2f:18 1073741826 1073742335
3: POSIX  ADVISORY  WRITE 4713 00:2f:19 1073741825 1073741825
3: -> POSIX  ADVISORY  WRITE 4714 00:2f:19 1073741826 1073742335
4: OFDLCK ADVISORY  WRITE -1 00:2f:20 0 EOF
5: FLOCK  ADVISORY  WRITE 4715 fe:00:21 0 EOF
"""


def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> list[KernelLock]:
    path = tmp_path / "locks"
    path.write_text(lines)
    monkeypatch.setattr(kernel_locks, "LOCKS", path)
    locks = held_locks()
    assert locks is not None
    return locks


def test_locks_when_the_kernel_lists_them_then_waits_and_whole_files_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of each its process, file and bytes."""
    locks = told(monkeypatch, tmp_path, LINES)
    assert [lock.inode for lock in locks] == [17, 18, 19, 20]
    assert locks[0] == KernelLock(4711, (0, 0x2F), 17, True, 1073741824, 1073742335)
    assert not locks[1].writing
    assert locks[3].covers(5, 1 << 62)
    assert not locks[2].covers(1073741825, 1073741826)
    assert held_locks({19, 17, 1}) == [locks[0], locks[2]]
    assert held_locks(()) == []


def test_lock_when_sqlite_holds_it_then_the_kernel_tells(tmp_path: Path) -> None:
    """As it stands in this kernel's own list."""
    path = tmp_path / "a.db"
    with SqlProcess(path) as app:
        app.script("CREATE TABLE t(x)", "BEGIN EXCLUSIVE")
        here = path.stat()
        device = os.major(here.st_dev), os.minor(here.st_dev)
        found = [
            lock
            for lock in held_locks() or ()
            if (lock.device, lock.inode) == (device, here.st_ino) and lock.covers(*EXCLUSIVE)
        ]
        assert [lock.writing for lock in found] == [True]


def test_locks_when_the_kernel_does_not_tell_then_they_are_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not: none."""
    monkeypatch.setattr(kernel_locks, "LOCKS", tmp_path / "none")
    assert held_locks() is None


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
