"""A database whose writers are kept out by SQLite's own locks, while it is compared.

Owns the descriptor and the locks on it. Always true: after `end` nothing of it is held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from litemq.actors.tracked import Tracked
from litemq.fs.locks import SharedLock, WalWriteLock
from litemq.fs.wal_tail import WalTail


@dataclass(slots=True)
class Quiet:
    """A database that nobody can write: SQLite's locks are held, by us.

    A checkpoint may copy pages meanwhile: the overlay of the WAL has them all.
    """

    tracked: Tracked
    fd: int
    lock: SharedLock
    #: which of its WALs, if there was one, and the lock on that
    wal: WalTail | None
    wal_lock: WalWriteLock | None
    close: Callable[[int], object]

    def end(self) -> None:
        if self.wal_lock is not None:
            self.wal_lock.release()
        with contextlib.suppress(OSError):  # the mount has died
            self.lock.release()
        self.close(self.fd)
        self.tracked.opening = False
