"""The read-only files that are in no backing directory: `.primary` and `NAME-pos`.

Owns their names, inode numbers and attributes. Their contents come from the gatekeeper at the
moment of reading, so nothing of them is ever cached, here or in the kernel. Always true: the
directory does not list them, so what is done to `NAME*` is done to SQLite's files alone; and
`NAME-pos` is virtual only while there is the database NAME and no real file is called so.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from litemq.fs.capture import Gatekeeper
from litemq.fs.names import PRIMARY_NAME, database_of_position


class VirtualFiles:
    """Virtual names and inodes, and what stands in the files."""

    def __init__(
        self, gatekeeper: Gatekeeper, real: Container[str], new_inode: Callable[[], int]
    ) -> None:
        """`real`: the names in the backing directory."""
        self._gatekeeper = gatekeeper
        self._real = real
        self._new_inode = new_inode
        self._inodes: dict[str, int] = {}
        self._names: dict[int, str] = {}

    @staticmethod
    def may_become(name: str) -> bool:
        """Whether a file of that name may come into being by itself: so "none" is not cached."""
        return name == PRIMARY_NAME or database_of_position(name) != ""

    def has(self, name: str) -> bool:
        """Whether the name is a virtual file's now."""
        return self._contents_of(name) is not None

    def find(self, name: str) -> int | None:
        """The inode of the virtual file of that name, if there is one now."""
        if self._contents_of(name) is None:
            return None
        inode = self._inodes.get(name)
        if inode is None:
            inode = self._inodes[name] = self._new_inode()
            self._names[inode] = name
        return inode

    def database(self, inode: int) -> str:
        """Whose position stands in the file; "" if it is another."""
        return database_of_position(self._names.get(inode, ""))

    def contents(self, inode: int) -> bytes | None:
        """What stands in the file now; None: no such file."""
        name = self._names.get(inode)
        return None if name is None else self._contents_of(name)

    def _contents_of(self, name: str) -> bytes | None:
        if name in self._real:
            return None
        if name == PRIMARY_NAME:
            return self._gatekeeper.primary_text()
        database = database_of_position(name)
        return self._gatekeeper.position_text(database) if database else None
