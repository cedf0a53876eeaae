"""The one flat directory: names, inodes, and the backing files behind them.

Owns the backing directory and every descriptor into it. Never answers a FUSE call itself and never
touches the mount. Always true: a name has one node, a node's inode number is never used again, and
an unlinked file that is still open keeps its descriptor.
"""

from __future__ import annotations

import os
from pathlib import Path

from litemq.fs.cached_files import CachedDatabaseFile, CachedJournalFile, CachedWalFile
from litemq.fs.capture import DatabaseCapture, Gatekeeper
from litemq.fs.files import File, NamelessFile, ShmFile
from litemq.fs.names import Kind, classify
from litemq.fs.sqlite_files import DatabaseFile, JournalFile, WalFile

ROOT_INODE = 1

_WRITTEN_THROUGH: dict[Kind, type[DatabaseFile | WalFile | JournalFile]] = {
    Kind.DATABASE: DatabaseFile,
    Kind.WAL: WalFile,
    Kind.JOURNAL: JournalFile,
}
_CACHED: dict[Kind, type[DatabaseFile | WalFile | JournalFile]] = {
    Kind.DATABASE: CachedDatabaseFile,
    Kind.WAL: CachedWalFile,
    Kind.JOURNAL: CachedJournalFile,
}


class Tree:
    """Names to nodes to backing files."""

    def __init__(self, backing: Path, gatekeeper: Gatekeeper, *, cached: bool = False) -> None:
        """`cached`: the kernel caches writes."""
        self.backing = backing
        self._cached = cached
        self.gatekeeper = gatekeeper
        self.by_name: dict[str, File] = {}
        self.by_inode: dict[int, File] = {}
        self.captures: dict[str, DatabaseCapture] = {}
        self._next_inode = ROOT_INODE + 1

    def new_inode(self) -> int:
        """A number no file has had before."""
        self._next_inode += 1
        return self._next_inode - 1

    def load(self) -> None:
        """Take in the files a former run left. Shared memory of dead processes is removed.

        SQLite rebuilds it.
        """
        for entry in sorted(os.scandir(self.backing), key=lambda each: each.name):
            if classify(entry.name)[0] is Kind.SHM:
                os.unlink(entry.path)
            elif entry.is_file(follow_symlinks=False):
                self._load_file(entry.name)

    def _load_file(self, name: str) -> None:
        file = self.add(name)
        if isinstance(file, WalFile):
            file.cut_off_zeros()
        self._learn(file)

    def relearn(self) -> None:
        """Look at every file as after a start: others have written, and nothing of it is ours."""
        for capture in self.captures.values():
            capture.begin()
        for file in self.by_name.values():
            self._learn(file)

    def _learn(self, file: File) -> None:
        if isinstance(file, WalFile):
            file.capture.wal_end = file.stat().st_size
        elif isinstance(file, JournalFile):
            # the process that wrote is gone, and with it what was known of its pages
            file.appeared()

    def sync(self) -> None:
        """Have names that were made, changed and removed on the disk. Raises OSError."""
        fd = os.open(self.backing, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def path(self, name: str) -> str:
        return os.path.join(self.backing, name)

    def capture(self, database: str) -> DatabaseCapture:
        found = self.captures.get(database)
        if found is None:
            found = self.captures[database] = DatabaseCapture(database)
        return found

    def add(self, name: str) -> File:
        """A node for a backing file under `name`."""
        file = self._make(self.new_inode(), name)
        self.by_name[name] = file
        self.by_inode[file.inode] = file
        return file

    def rename(self, file: File, new: str) -> File:
        """The node of a file whose backing file now bears another name.

        Inode, handles and descriptor go on.
        """
        renamed = self._make(file.inode, new)
        renamed.take_over(file)
        del self.by_name[file.name]
        self.by_name[new] = renamed
        self.by_inode[file.inode] = renamed
        return renamed

    def _make(self, inode: int, name: str) -> File:
        kind, database = classify(name)
        path = self.path(name)
        file: File
        role = (_CACHED if self._cached else _WRITTEN_THROUGH).get(kind)
        if role is not None:
            file = role(inode, name, path, self.capture(database), self.gatekeeper)
        elif kind is Kind.SHM:
            file = ShmFile(inode, name, path, database, self.gatekeeper)
        else:
            file = File(inode, name, path, self.gatekeeper)
        return file

    def detach(self, file: File) -> File:
        """The name is gone; a node without one stays while the kernel or an open handle knows it.

        What happens to it from now on is nobody's but of those who have it open.
        """
        if self.by_name.get(file.name) is file:
            del self.by_name[file.name]
        nameless = NamelessFile.of(file)
        self.by_inode[file.inode] = nameless
        self.release_if_unused(nameless)
        return nameless

    def release_if_unused(self, file: File) -> None:
        if file.handles == 0:
            file.close()
            if file.unlinked and file.lookups <= 0:
                self.by_inode.pop(file.inode, None)
