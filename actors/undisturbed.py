"""A database that nobody happens to write, looked at without a lock.

A lock of ours would fail a program that has no busy timeout, or have it leave its WAL behind. So
SQLite's locks are only asked for before and behind the reading, and inotify tells of every write to
the backing files between. Owns that watch. Always true: if `undisturbed` says so, no transaction
was under way at any moment since `begin`, because a writer that had none at both ends has written
in between. Only where writes come to the backing files at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from inotify_simple import INotify, flags

from litemq.errors import FormatError
from litemq.fs.locks import committing
from litemq.fs.wal_tail import WalTail

_WRITES = flags.MODIFY | flags.MOVE_SELF | flags.DELETE_SELF | flags.ATTRIB


class Undisturbed:
    """From `begin` on."""

    def __init__(
        self, fd: int, path: str, tail: WalTail | None, journal_active: Callable[[], bool],
        *, cached: bool,
    ) -> None:  # fmt: skip
        self._cached = cached
        self._fd = fd
        self._path = path
        self._tail = tail
        self._journal_active = journal_active
        self._watch = INotify(nonblocking=True)
        self._published: tuple[bytes, int] | None = None

    @classmethod
    def begin(
        cls, fd: int, path: str, tail: WalTail | None, journal_active: Callable[[], bool],
        *, cached: bool = False,
    ) -> Self | None:  # fmt: skip
        """None if somebody writes now, or it can't be watched.

        `fd` is the database in the mount, `path` its backing file. `cached`: the kernel caches what
        is written there.
        """
        try:
            watch = cls(fd, path, tail, journal_active, cached=cached)
        except OSError:  # inotify is used up
            return None
        try:
            watch._add(path)
            if tail is not None:
                watch._add(f"{path}-wal")
            watch._published = watch._how_far()
            if watch._idle():
                return watch
        except (FormatError, OSError):
            pass
        watch.end()
        return None

    def undisturbed(self) -> bool:
        """Whether nobody has written from the beginning until now. Raises OSError."""
        return (
            self._idle() and self._how_far() == self._published and not self._watch.read(timeout=0)
        )

    def end(self) -> None:
        self._watch.close()

    def _add(self, path: str) -> None:
        self._watch.add_watch(path, _WRITES)

    def _idle(self) -> bool:
        if committing(self._fd) or self._journal_active():
            return False
        if self._tail is None:
            return not os.path.exists(f"{self._path}-wal")
        if self._cached and not self._tail.unshared and self._published is None:
            return False  # it is being opened: its index is not there yet
        return not self._tail.being_written

    def _how_far(self) -> tuple[bytes, int] | None:
        """How far a cached WAL goes, by the index if somebody shares it."""
        if self._tail is None or not self._cached:
            return None
        return self._tail.published(chain=self._tail.unshared)
