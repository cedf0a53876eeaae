"""Which files have been written since the last look: by inotify, or by looking at all of them.

inotify instances and watches are limited for each user, and any program of the user can use them
up. Then the files that have none are looked at again and again, until there are watches again.
Always true: a write to a watched file is followed by a call of `written`, sooner or later.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

from litemq import log
from litemq.actors.reactor import Reactor

# At its first use the library is looked for by running ldconfig, which takes longer than all else
# that a log writer begins with: here it is done once, by the process that all actors come from.
with contextlib.suppress(OSError):
    INotify().close()

#: files without a watch are looked at this often, more seldom if that takes long
POLL_S = 0.01
#: looking takes a share of the time, one part of so many
POLL_SHARE = 20
#: whether there are watches again is tried this often
HEAL_S = 2.0
_LIMITS = Path("/proc/sys/fs/inotify")
#: what a limit answers; other errors are of one file: it has just gone, or may not be read
_USED_UP = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class WriteWatch:
    """One inotify descriptor for many files, or none."""

    def __init__(self, reactor: Reactor, written: Callable[[], None]) -> None:
        """`written` is called when `take` may have something."""
        self._reactor = reactor
        self._tell = written
        self._log = log.get()
        self._inotify: INotify | None = None
        self._names: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        #: path by name of what has no watch
        self._polled: dict[str, str] = {}
        #: what has got a watch since the last look
        self._late: set[str] = set()
        self._polling = self._due = False
        self._used_up = False
        #: when watches for the others are tried next (monotonic seconds)
        self._heal_s = 0.0
        self._begin()

    def add(self, path: str, name: str) -> None:
        """Watch the file that bears the path now."""
        self.remove(name)
        if self._watch(path, name):
            self._polled[name] = path
            self._poll_soon()

    def remove(self, name: str) -> None:
        self._polled.pop(name, None)
        watch = self._watches.pop(name, None)
        if watch is not None and self._names.pop(watch, None) is not None:
            assert self._inotify is not None
            with contextlib.suppress(OSError):  # the file is gone, and its watch with it
                self._inotify.rm_watch(watch)

    def take(self) -> set[str]:
        """Names whose file was written, or may have been; events of removed watches are dropped."""
        names, self._late = self._late, set()
        if self._due:
            names.update(self._polled)
            self._due = False
        if self._inotify is not None:
            events = self._inotify.read(timeout=0)
            names.update(self._names[event.wd] for event in events if event.wd in self._names)
        return names

    def rest(self, pause_s: float) -> None:
        """Be quiet for a moment; what happens meanwhile is told afterwards."""
        if self._inotify is not None:
            self._reactor.rest(self._inotify.fileno(), pause_s)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()

    # --- watches

    def _begin(self) -> bool:
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            self._heal_s = time.monotonic() + HEAL_S
            self._complain("max_user_instances", error)
            return False
        self._reactor.on_readable(self._inotify.fileno(), self._tell)
        return True

    def _watch(self, path: str, name: str) -> int:
        """Returns 0, or the errno why there is no watch."""
        if self._inotify is None:
            return errno.EMFILE
        try:
            watch = self._inotify.add_watch(path, flags.MODIFY)
        except OSError as error:
            if error.errno in _USED_UP:
                self._complain("max_user_watches", error)
            return error.errno or errno.EIO
        self._names[watch] = name
        self._watches[name] = watch
        return 0

    def _complain(self, limit: str, error: OSError) -> None:
        if not self._used_up:
            self._used_up = True
            self._log.warning(
                "inotify is used up; looking at the files instead, which takes more CPU time",
                raise_the_limit=f"sysctl fs.inotify.{limit}",
                limit=_value_of(limit),
                reason=str(error),
            )

    # --- without them

    def _poll_soon(self) -> None:
        if not self._polling:
            self._polling = True
            self._reactor.later(POLL_S, self._poll)

    def _poll(self) -> None:
        begin_s = time.monotonic()
        if begin_s >= self._heal_s:
            self._heal()
        self._due = True
        self._tell()
        if not self._polled:
            self._polling = False
            return
        took_s = time.monotonic() - begin_s
        self._reactor.later(max(POLL_S, POLL_SHARE * took_s), self._poll)

    def _heal(self) -> None:
        self._heal_s = time.monotonic() + HEAL_S
        if self._inotify is None and not self._begin():
            return
        for name, path in list(self._polled.items()):
            refused = self._watch(path, name)
            if refused in _USED_UP:
                return
            if not refused:
                del self._polled[name]
                self._late.add(name)
        if self._used_up:
            self._used_up = False
            self._log.info("inotify works again")


def _value_of(limit: str) -> str:
    try:
        return (_LIMITS / limit).read_text().strip()
    except OSError:
        return "unknown"
