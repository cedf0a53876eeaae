"""The mount's directory: names, inodes, and the backing files behind them.

Owns the backing directory and every descriptor into it. Never answers a FUSE call itself and never
touches the mount. Always true: a name has one node, an inode number belongs to one node as long as
the kernel may know it, and an unlinked file that is still open keeps its descriptor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from litemq.fs.backing_files import walk
from litemq.fs.cached_files import CachedDatabaseFile, CachedJournalFile, CachedWalFile
from litemq.fs.capture import DatabaseCapture, Gatekeeper
from litemq.fs.files import File, NamelessFile, ShmFile, Special
from litemq.fs.folders import ROOT_INODE, Folder, Folders
from litemq.fs.names import Kind, classify
from litemq.fs.pages import MAGIC
from litemq.fs.sqlite_files import DatabaseFile, JournalFile, WalFile

#: files of a disk have lower numbers
FIRST_OWN_INODE = 1 << 62

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


def _is_special(entry: os.DirEntry[str]) -> bool:
    mode = entry.stat(follow_symlinks=False).st_mode
    return stat.S_ISLNK(mode) or stat.S_ISSOCK(mode)


class Tree:
    """Names to nodes to backing files."""

    def __init__(self, backing: Path, gatekeeper: Gatekeeper, *, cached: bool = False) -> None:
        """`cached`: the kernel caches writes."""
        self.backing = backing
        self._cached = cached
        self.gatekeeper = gatekeeper
        self.by_name: dict[str, File] = {}
        self.by_inode: dict[int, File] = {}
        self.folders = Folders()
        self.captures: dict[str, DatabaseCapture] = {}
        #: databases that nobody may open, for their files are not what they are to be
        self.withheld: frozenset[str] = frozenset()
        self._next_inode = FIRST_OWN_INODE

    def new_inode(self) -> int:
        """A number no file has had before, nor gets from a disk."""
        self._next_inode += 1
        return self._next_inode - 1

    def _inode_of(self, name: str) -> int:
        """That of the backing file, so that it is the same in the next mount.

        A disk gives a number again as soon as the file that had it is gone, and the kernel may know
        that one still: then it is another until the next mount.
        """
        try:
            found = os.stat(self.path(name), follow_symlinks=False).st_ino
        except FileNotFoundError:
            return self.new_inode()
        taken = found in self.by_inode or found in self.folders.by_inode
        taken = taken or not ROOT_INODE < found < FIRST_OWN_INODE
        return self.new_inode() if taken else found

    def created(self, file: File) -> None:
        """There is a backing file now; nobody has been told of the node."""
        del self.by_inode[file.inode]
        file.inode = self._inode_of(file.name)
        self.by_inode[file.inode] = file

    def load(self) -> None:
        """Take in the files a former run left. Shared memory of dead processes is removed.

        SQLite rebuilds it.
        """
        for name, entry in walk(self.backing):
            if entry.is_dir(follow_symlinks=False):
                self.add_folder(name)
            elif _is_special(entry):
                self.add_special(name)
            if not entry.is_file(follow_symlinks=False):
                continue
            file = self.add(name)
            if isinstance(file, ShmFile) and file.head() != MAGIC:
                self.detach(file)
                os.unlink(entry.path)
            else:
                if isinstance(file, WalFile):
                    file.cut_off_zeros()
                self._learn(file)

    def withhold(self, databases: Iterable[str]) -> None:
        """Keep these from everybody from now on, and give all others."""
        before, self.withheld = self.withheld, frozenset(databases)
        for database in before - self.withheld:
            self._renew(database)

    def withholds(self, name: str) -> bool:
        """Whether the file is of a database that is withheld."""
        return bool(self.withheld) and classify(name)[1] in self.withheld

    def _renew(self, database: str) -> None:
        """Its files have changed while nobody had them: what the kernel knows of them is void."""
        self.capture(database).begin()
        for suffix in ("", "-wal", "-shm", "-journal"):
            name = f"{database}{suffix}"
            known = self.by_name.get(name)
            if known is not None:
                self.detach(known)
            if os.path.isfile(self.path(name)):
                self._learn(self.add(name))

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
            return
        if self.gatekeeper.capturing and not isinstance(file, DatabaseFile):
            file.look_at_head(file.head())

    def sync(self, folder: str = "") -> None:
        """Have names that were made, changed and removed in it on the disk. Raises OSError."""
        fd = os.open(self.path(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
        return self._add(self._make(self._inode_of(name), name))

    def add_special(self, name: str) -> File:
        """A node for a symbolic link or a socket."""
        return self._add(Special(self._inode_of(name), name, self.path(name), self.gatekeeper))

    def _add(self, file: File) -> File:
        self.by_name[file.name] = file
        self.by_inode[file.inode] = file
        return file

    def add_folder(self, name: str) -> Folder:
        return self.folders.add(self._inode_of(name), name)

    def rename(self, file: File, new: str) -> File:
        """The node of a file whose backing file now bears another name.

        Inode, handles and descriptor go on.
        """
        if isinstance(file, Special):
            renamed: File = Special(file.inode, new, self.path(new), self.gatekeeper)
        else:
            renamed = self._make(file.inode, new)
        renamed.take_over(file)
        del self.by_name[file.name]
        self.by_name[new] = renamed
        self.by_inode[file.inode] = renamed
        return renamed

    def rename_folder(self, folder: Folder, new: str) -> list[tuple[File, File]]:
        """All that is in it gets another name; the nodes before and afterwards. Raises OSError."""
        old = folder.name
        os.rename(self.path(old), self.path(new))
        replaced = self.folders.by_name.get(new)
        if replaced is not None:
            self.folders.remove(replaced)
        self.folders.rename(folder, new)
        inside = sorted(name for name in self.by_name if name.startswith(f"{old}/"))
        files = [self.by_name[name] for name in inside]
        for file in reversed(files):
            file.moved_away()
        return [(file, self.rename(file, new + file.name[len(old) :])) for file in files]

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
