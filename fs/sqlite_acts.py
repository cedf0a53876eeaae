"""Which acts on a database's files are SQLite's own, as the locks show under which it acts.

SQLite deletes and cuts a WAL, and writes a database in WAL mode, only when the database has all of
what the WAL loses; anything else that does so may take committed pages away. And a connection into
a mount that has died goes on by names, and those lead into the next mount: when it is closed it
takes itself for the last one, and deletes a WAL and its index. Owns the rules, and changes nothing.
Always true: what the locks do not show is taken for a program's wish, as on any disk.

Source: https://www.sqlite.org/lockingv3.html and https://www.sqlite.org/walformat.html#wal_locks
"""

from __future__ import annotations

from litemq.fs.files import File, ShmFile
from litemq.fs.kernel_locks import KernelLock, held_locks
from litemq.fs.locks import (
    RESERVED_BYTE,
    SHARED_FIRST,
    SHARED_SIZE,
    WAL_CHECKPOINT_BYTE,
    WAL_WRITE_BYTE,
)
from litemq.fs.mount import mounted_devices
from litemq.fs.processes import process_of
from litemq.fs.sqlite_files import JournalFile, WalFile

EXCLUSIVE = SHARED_FIRST, SHARED_FIRST + SHARED_SIZE - 1
RESERVED = RESERVED_BYTE, RESERVED_BYTE
CHECKPOINT = WAL_CHECKPOINT_BYTE, WAL_CHECKPOINT_BYTE
WAL_WRITE = WAL_WRITE_BYTE, WAL_WRITE_BYTE


class SqliteActs:
    """In one mount."""

    def __init__(self, minor: int, *, after_a_death: bool) -> None:
        """`minor`: the number of the mount's device, whose major number is 0. `after_a_death`:
        programs may have files open in a mount that was here before.
        """
        self._device = (0, minor)
        self._after_a_death = after_a_death

    def deletes(self, file: File, database: File | None) -> bool:
        """Whether SQLite itself deletes the file; `database` is the one that it belongs to.

        Beside an empty database SQLite deletes the WAL of another one, without a lock. Raises
        OSError.
        """
        if not isinstance(file, WalFile) or database is None or not database.stat().st_size:
            return True
        return self._writes(database, EXCLUSIVE)

    def checkpoints(self, database: File | None, index: File | None) -> bool:
        """Whether somebody has SQLite's lock for writing a database in WAL mode."""
        return self._any_writes((index, CHECKPOINT), (database, EXCLUSIVE))

    def writes_in_rollback_mode(self, database: File | None, thread: int | None = None) -> bool:
        """Whether somebody is seen to have SQLite's lock for writing a database in such a mode.

        `thread`: and not another process than this thread's; one that has ended may be anybody's.
        """
        if database is None or thread == 0:  # 0: of another PID namespace, and no lock is seen
            return False
        locks = held_locks({database.inode}) or ()
        writers = [
            lock.pid for lock in locks if self._is_on(lock, database) and lock.covers(*EXCLUSIVE)
        ]
        process = process_of(thread) if writers and thread is not None else 0
        return process in writers if process else bool(writers)

    def cuts_wal(self, database: File | None, index: File | None) -> bool:
        """Whether somebody has SQLite's lock for making a WAL shorter."""
        return self._any_writes((index, WAL_WRITE), (database, EXCLUSIVE))

    def by_a_dead_mount(self, file: File, database: File | None, pid: int) -> bool:
        """Whether who deletes the file means that of a mount that has died: a thread of a process
        with a lock on a file of no mount, and nobody has SQLite's lock for it here. Raises OSError.
        """
        if not self._after_a_death or not isinstance(file, (ShmFile, WalFile, JournalFile)):
            return False
        if database is None or not database.stat().st_size:
            return False
        process = process_of(pid)
        theirs = [lock for lock in held_locks() or () if lock.pid == process]
        living = mounted_devices()
        if all(lock.device in living or lock.device[0] for lock in theirs):
            return False
        ours = (EXCLUSIVE, RESERVED) if isinstance(file, JournalFile) else (EXCLUSIVE,)
        return not self._writes(database, *ours)

    def _writes(self, file: File | None, *ranges: tuple[int, int]) -> bool:
        """Whether somebody has one of these locked for writing, or that can't be told."""
        return self._any_writes(*((file, each) for each in ranges))

    def _any_writes(self, *wanted: tuple[File | None, tuple[int, int]]) -> bool:
        """Whether somebody has one of these ranges of its file locked for writing, or that can't be
        told.
        """
        files = [(file, bytes_) for file, bytes_ in wanted if file is not None]
        if not files:
            return False
        locks = held_locks({file.inode for file, _ in files})
        return locks is None or any(
            self._is_on(lock, file) and lock.covers(*bytes_)
            for lock in locks
            for file, bytes_ in files
        )

    def _is_on(self, lock: KernelLock, file: File) -> bool:
        return lock.writing and lock.device == self._device and lock.inode == file.inode
