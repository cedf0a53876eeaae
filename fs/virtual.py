"""The read-only files that are in no backing directory: `.primary` and `NAME-pos`.

Owns their names, inode numbers and attributes. Their contents come from the gatekeeper at the
moment of reading, so nothing of them is ever cached, here or in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from litemq.fs.capture import Gatekeeper
from litemq.fs.names import PRIMARY_NAME, Kind, classify

POSITION_SUFFIX = "-pos"


class VirtualFiles:
    """Virtual names and inodes, and what stands in the files."""

    def __init__(self, gatekeeper: Gatekeeper, new_inode: Callable[[], int]) -> None:
        self._gatekeeper = gatekeeper
        self._new_inode = new_inode
        self._inodes: dict[str, int] = {}
        self._names: dict[int, str] = {}

    @staticmethod
    def is_virtual(name: str) -> bool:
        """Whether the name can only be a virtual file's."""
        return classify(name)[0] in (Kind.PRIMARY, Kind.POSITION)

    def find(self, name: str) -> int | None:
        """The inode of the virtual file of that name, if there is one now."""
        if self._contents_of(name) is None:
            return None
        inode = self._inodes.get(name)
        if inode is None:
            inode = self._inodes[name] = self._new_inode()
            self._names[inode] = name
        return inode

    def contents(self, inode: int) -> bytes | None:
        """What stands in the file now; None: no such file."""
        name = self._names.get(inode)
        return None if name is None else self._contents_of(name)

    def _contents_of(self, name: str) -> bytes | None:
        kind, database = classify(name)
        if kind is Kind.PRIMARY:
            return self._gatekeeper.primary_text()
        if kind is Kind.POSITION:
            return self._gatekeeper.position_text(database)
        return None

    def listing(self, databases: Iterable[str]) -> list[tuple[str, int]]:
        """Names and inodes to show in the directory."""
        names = [PRIMARY_NAME, *(database + POSITION_SUFFIX for database in databases)]
        return [(name, inode) for name in names if (inode := self.find(name)) is not None]
