"""Which acts are SQLite's own, by the locks that are held."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from litemq.fs import sqlite_acts
from litemq.fs.kernel_locks import KernelLock
from litemq.fs.sqlite_acts import CHECKPOINT, EXCLUSIVE, RESERVED, WAL_WRITE, SqliteActs
from litemq.fs.tree import Tree

MOUNT, DEAD = (0, 90), (0, 91)
PID = 4711


class Mount:
    """A database with everything beside it, and the locks that programs hold."""

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, size: int = 4096
    ) -> None:
        gatekeeper: Any = None
        self.tree = Tree(directory, gatekeeper)
        for suffix in ("", "-wal", "-shm", "-journal"):
            (directory / f"a.db{suffix}").write_bytes(b"" if suffix else b"x" * size)
            self.tree.add(f"a.db{suffix}")
        self.locks: list[KernelLock] | None = []
        monkeypatch.setattr(sqlite_acts, "held_locks", lambda *_: self.locks)
        monkeypatch.setattr(sqlite_acts, "mounted_devices", lambda: {(254, 1), MOUNT})
        #: of a thread, where that is not its own number
        self.processes: dict[int, int] = {}
        monkeypatch.setattr(
            sqlite_acts, "process_of", lambda thread: self.processes.get(thread, thread)
        )

    def file(self, suffix: str) -> Any:
        return self.tree.by_name[f"a.db{suffix}"]

    def lock(
        self, suffix: str, which: tuple[int, int], *, device: tuple[int, int] = MOUNT,
        writing: bool = True,
    ) -> None:  # fmt: skip
        assert self.locks is not None
        inode = self.file(suffix).inode
        self.locks.append(KernelLock(PID, device, inode, writing, *which))


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    return Mount(tmp_path, monkeypatch)


def acts(*, after_a_death: bool = False) -> SqliteActs:
    return SqliteActs(MOUNT[1], after_a_death=after_a_death)


def test_wal_when_sqlite_deletes_it_then_it_holds_the_exclusive_lock(mount: Mount) -> None:
    """A shell holds none; a lock of readers is none either, nor one on another device."""
    wal, database = mount.file("-wal"), mount.file("")
    assert not acts().deletes(wal, database)
    mount.lock("", EXCLUSIVE, writing=False)
    mount.lock("", EXCLUSIVE, device=DEAD)
    assert not acts().deletes(wal, database)
    mount.lock("", EXCLUSIVE)
    assert acts().deletes(wal, database)


def test_wal_when_its_database_is_empty_or_gone_then_sqlite_deletes_it_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to a database that bore the name before."""
    mount = Mount(tmp_path, monkeypatch, size=0)
    assert acts().deletes(mount.file("-wal"), mount.file(""))
    assert acts().deletes(mount.file("-wal"), None)


@pytest.mark.parametrize(
    ("suffix", "which", "checkpoints", "cuts"),
    [
        ("-shm", CHECKPOINT, True, False),
        ("-shm", WAL_WRITE, False, True),
        ("", EXCLUSIVE, True, True),
        ("", RESERVED, False, False),
    ],
)
def test_database_in_wal_mode_when_it_is_written_then_the_lock_tells_by_what(
    mount: Mount, suffix: str, which: tuple[int, int], checkpoints: bool, cuts: bool
) -> None:
    """A checkpoint has its own lock, who cuts a WAL the writer's; or the database is exclusive."""
    files = mount.file(""), mount.file("-shm")
    assert not acts().checkpoints(*files)
    assert not acts().cuts_wal(*files)
    mount.lock(suffix, which)
    assert acts().checkpoints(*files) is checkpoints
    assert acts().cuts_wal(*files) is cuts


def test_database_when_a_process_writes_it_then_another_does_not(mount: Mount) -> None:
    """Nor does one of another PID namespace, whose threads are told as 0 and whose locks are not.
    A thread that has ended was its own, perhaps.
    """
    database, ended = mount.file(""), 4713
    mount.processes[ended] = 0
    assert not acts().writes_in_rollback_mode(database)
    mount.lock("", EXCLUSIVE)
    found = {
        thread: acts().writes_in_rollback_mode(database, thread)
        for thread in (None, PID, PID + 1, ended, 0)
    }
    assert found == {None: True, PID: True, PID + 1: False, ended: True, 0: False}


def test_locks_when_they_cannot_be_told_then_acts_are_taken_for_sqlites(mount: Mount) -> None:
    """As they nearly always are; what they write is looked at once more later."""
    mount.locks = None
    assert acts().checkpoints(mount.file(""), mount.file("-shm"))
    assert not acts(after_a_death=True).by_a_dead_mount(mount.file("-wal"), mount.file(""), PID)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_file_when_a_connection_of_a_dead_mount_deletes_it_then_that_is_told(
    mount: Mount, suffix: str
) -> None:
    """It has SQLite's lock there, and nobody has it here. Any other program may delete."""
    file, database = mount.file(suffix), mount.file("")
    after = acts(after_a_death=True)
    assert not after.by_a_dead_mount(file, database, PID)  # a shell, or SQLite without locks
    mount.lock("", EXCLUSIVE, device=(254, 1))
    assert not after.by_a_dead_mount(file, database, PID)  # a lock on a disk
    mount.lock("", EXCLUSIVE, device=DEAD)
    assert after.by_a_dead_mount(file, database, PID)
    assert not after.by_a_dead_mount(file, database, os.getpid())
    assert not acts().by_a_dead_mount(file, database, PID)
    assert not after.by_a_dead_mount(database, database, PID)
    mount.lock("", EXCLUSIVE)
    assert not after.by_a_dead_mount(file, database, PID)
