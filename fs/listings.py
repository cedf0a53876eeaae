"""What directories are read from: the names as they were when the reading began.

Owns the lists of open directories. Always true: a name that is there from the first call to the
last is read once, whatever comes and goes meanwhile; and each call costs what it reads, however
long the list is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from litemq.fs.folders import Folder


class Listings:
    """Handles of open directories to the names in them."""

    def __init__(self) -> None:
        self._names: dict[int, list[str]] = {}
        self._folders: dict[int, Folder] = {}
        self._next_handle = 1

    def open(self, folder: Folder) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._names[handle] = []
        self._folders[handle] = folder
        return handle

    def folder(self, handle: int) -> Folder:
        return self._folders[handle]

    def read(
        self, handle: int, start: int, names: Callable[[], Iterable[str]]
    ) -> Iterator[tuple[int, str]]:
        """Names behind the place `start`, each with its place; at 0 the reading begins anew."""
        if start == 0:
            self._names[handle] = sorted(names())
        listed = self._names[handle]
        for place in range(start, len(listed)):
            yield place + 1, listed[place]

    def close(self, handle: int) -> None:
        del self._names[handle], self._folders[handle]
