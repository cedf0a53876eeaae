"""The folders of the mount: their names and inode numbers.

Never touches the disk. Always true: the top has the name "" and is there; a folder without a name
stays known until the kernel has forgotten it.
"""

from __future__ import annotations

import os
from errno import ENOENT

ROOT_INODE = 1


class Folder:
    """One of them."""

    __slots__ = ("gone", "inode", "lookups", "name")

    def __init__(self, inode: int, name: str) -> None:
        self.inode = inode
        #: the path from the top
        self.name = name
        self.lookups = 0
        self.gone = False


class Folders:
    """Of one mount."""

    def __init__(self) -> None:
        top = Folder(ROOT_INODE, "")
        self.by_name: dict[str, Folder] = {"": top}
        self.by_inode: dict[int, Folder] = {ROOT_INODE: top}

    def add(self, inode: int, name: str) -> Folder:
        folder = Folder(inode, name)
        self.by_name[name] = folder
        self.by_inode[inode] = folder
        return folder

    def child(self, parent: int, base: str) -> str:
        """The name of what is called `base` in the folder of that inode. Raises OSError."""
        folder = self.by_inode.get(parent)
        if folder is None or folder.gone:
            raise OSError(ENOENT, os.strerror(ENOENT))
        return f"{folder.name}/{base}" if folder.name else base

    def remove(self, folder: Folder) -> None:
        """It has lost its name."""
        del self.by_name[folder.name]
        folder.gone = True
        self.forget(folder, 0)

    def rename(self, folder: Folder, new: str) -> None:
        """With all that are in it."""
        old = folder.name
        for name in [each for each in self.by_name if each == old or each.startswith(f"{old}/")]:
            moved = self.by_name.pop(name)
            moved.name = new + name[len(old) :]
            self.by_name[moved.name] = moved

    def forget(self, folder: Folder, count: int) -> None:
        """The kernel has forgotten it so many times."""
        folder.lookups -= count
        if folder.gone and folder.lookups <= 0:
            self.by_inode.pop(folder.inode, None)
