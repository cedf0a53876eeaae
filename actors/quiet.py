"""A database that nobody writes while it is compared.

It is watched that there are none, or its writers are kept out by SQLite's own locks; then it is
watched, too, for there are some who take no locks. Owns the descriptor, the locks and the watch.
Always true: after `end` nothing of it is held.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from litemq.actors.tracked import Tracked
from litemq.actors.undisturbed import Undisturbed
from litemq.fs.locks import SharedLock, WalWriteLock
from litemq.fs.wal_tail import WalTail


@dataclass(slots=True)
class Quiet:
    """A database that nobody can write, or of which is known at the end whether somebody did.

    A checkpoint may copy pages meanwhile: the overlay of the WAL has them all.
    """

    tracked: Tracked
    fd: int
    lock: SharedLock
    #: which of its WALs, if there was one, and the lock on that
    wal: WalTail | None
    wal_lock: WalWriteLock | None
    close: Callable[[int], object]
    #: without it there are locks
    watch: Undisturbed | None = None
    #: somebody has the file open for writing, as far as the mount was asked
    being_written: bool = False
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def locked(self) -> bool:
        """Whether there are locks, which keep out whoever takes some."""
        return self.lock.held

    def still(self) -> bool:
        """Whether what was read until now is one committed state. Raises OSError."""
        return self.watch is None or self.watch.undisturbed()

    def end(self) -> None:
        if self.watch is not None:
            self.watch.end()
        if self.wal_lock is not None:
            self.wal_lock.release()
        with contextlib.suppress(OSError):  # the mount has died
            self.lock.release()
        self.close(self.fd)
        self.tracked.opening = False
