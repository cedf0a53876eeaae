"""Which files have been written since the last look, by inotify."""

from __future__ import annotations

import contextlib

from inotify_simple import INotify, flags

# At its first use the library is looked for by running ldconfig, which takes longer than all else
# that a log writer begins with: here it is done once, by the process that all actors come from.
with contextlib.suppress(OSError):
    INotify().close()


class WriteWatch:
    """One inotify descriptor for many files."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self.fd: int = self._inotify.fileno()
        self._names: dict[int, str] = {}
        self._watches: dict[str, int] = {}

    def add(self, path: str, name: str) -> None:
        """Watch the file that bears the path now."""
        self.remove(name)
        watch = self._inotify.add_watch(path, flags.MODIFY)
        self._names[watch] = name
        self._watches[name] = watch

    def remove(self, name: str) -> None:
        watch = self._watches.pop(name, None)
        if watch is not None and self._names.pop(watch, None) is not None:
            with contextlib.suppress(OSError):  # the file is gone, and its watch with it
                self._inotify.rm_watch(watch)

    def written(self) -> set[str]:
        """Names whose file was written; events of removed watches are dropped."""
        return {
            self._names[event.wd]
            for event in self._inotify.read(timeout=0)
            if event.wd in self._names
        }
