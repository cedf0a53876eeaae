"""A database that nobody happens to write, looked at without a lock.

A lock of ours would fail a program that has no busy timeout, or have it leave its WAL behind. So
SQLite's locks are only asked for before and behind the reading, and inotify tells of every write to
the backing files between. Owns that watch. Always true: if `undisturbed` says so, no transaction
was under way at any moment since `begin`, because a writer that had none at both ends has written
in between. Where the kernel caches writes and programs share the index of a WAL, commits may go on:
nobody has written the database file, the WAL has not started over, and its tail has taken all that
was published at `begin`. So the file, with what was taken over it, is one committed state.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from inotify_simple import INotify, flags

from litemq.errors import FormatError
from litemq.fs.locks import committing
from litemq.fs.wal import WAL_HEADER_BYTES
from litemq.fs.wal_tail import WalTail

_LOSES_NAME = flags.MOVE_SELF | flags.DELETE_SELF | flags.ATTRIB
_WRITES = flags.MODIFY | _LOSES_NAME


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
        #: writes are cached, and an index tells what of the WAL counts
        self._indexed = False
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
            watch._indexed = cached and tail is not None and not tail.unshared
            watch._add(path, _WRITES)
            if tail is not None:
                # what comes to a cached one says nothing: it is read in the mount
                watch._add(f"{path}-wal", _LOSES_NAME if watch._indexed else _WRITES)
            watch._published = watch._how_far()
            if watch._idle():
                return watch
        except (FormatError, OSError):
            pass
        watch.end()
        return None

    def undisturbed(self) -> bool:
        """Whether nobody has written from the beginning until now. Raises OSError."""
        return self._idle() and self._wal_is_the_same() and not self._watch.read(timeout=0)

    def end(self) -> None:
        self._watch.close()

    def _add(self, path: str, events: int) -> None:
        self._watch.add_watch(path, events)

    def _idle(self) -> bool:
        if self._journal_active():
            return False
        if self._indexed:
            return self._published is not None  # else it is being opened
        if committing(self._fd):
            return False
        if self._tail is None:
            return not os.path.exists(f"{self._path}-wal")
        return not self._tail.being_written

    def _wal_is_the_same(self) -> bool:
        """As far as it is laid over the file: it may go on."""
        before, now = self._published, self._how_far()
        if not self._indexed:
            return now == before
        assert self._tail is not None
        # an index can't be read in the moment of a commit: less, or more, may have been taken
        return (
            before is not None
            and now is not None
            and before[0] == now[0]
            and (before[1] <= WAL_HEADER_BYTES or self._tail.has_taken_from(before, now[1]))
        )

    def _how_far(self) -> tuple[bytes, int] | None:
        """How far a cached WAL goes, by the index if somebody shares it."""
        if self._tail is None or not self._cached:
            return None
        return self._tail.published(chain=not self._indexed)
