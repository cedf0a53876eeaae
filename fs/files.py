"""Files of the mount on their backing files: what all have in common, and those that capture
nothing. `sqlite_files` has the others.

Owns descriptors and counts of users. Never speaks FUSE: errors are plain OSErrors. Always true:
bytes reach the backing file before the call that brought them is answered.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from errno import EROFS

from litemq.fs import misnamed
from litemq.fs.capture import Gatekeeper
from litemq.fs.pages import MAGIC

#: ends the name of a backing file, and of its node
Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a file loses its name: by unlink, by rename, or to a file that is renamed over it."""

    by_sqlite: bool = True
    """SQLite itself deletes it, as its locks tell; of a WAL, all frames are in the database."""
    replaced: bool = False
    """Another file takes the name in the same moment."""


def write_all(fd: int, data: bytes, offset: int) -> int:
    """As pwrite, but never short: the kernel does not look at how much of a cached page arrived."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)
    return written


class File:
    """Any file that is not SQLite's: passed through, never replicated."""

    __slots__ = (
        "fd",
        "gatekeeper",
        "handles",
        "inode",
        "lookups",
        "name",
        "path",
        "read_only",
        "unlinked",
        "writers",
    )

    #: whether a replica refuses to let applications open it for writing
    guarded = True

    def __init__(self, inode: int, name: str, path: str, gatekeeper: Gatekeeper) -> None:
        self.inode = inode
        self.name = name
        self.path = path
        self.gatekeeper = gatekeeper
        self.fd = -1
        self.handles = 0
        self.writers = 0
        self.lookups = 0
        self.unlinked = False
        #: the descriptor can't be written by: the file's mode forbids it
        self.read_only = False

    def open(self, *, writing: bool) -> None:
        if self.fd < 0:
            self._open(writing=writing)
        elif writing and self.read_only:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)
            self.read_only = False
        self.handles += 1
        self.writers += writing
        if writing and self.writers == 1:
            self.opened_for_writing()

    def _open(self, *, writing: bool) -> None:
        self.read_only = False
        try:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except PermissionError:  # the mode binds a node that is not root
            if writing:
                raise
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.read_only = True

    def create(self, mode: int) -> None:
        """Make the backing file and open it."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        os.fchmod(self.fd, mode)
        self.handles += 1
        self.writers += 1
        self.opened_for_writing()

    def take_over(self, other: File) -> None:
        """Go on with the descriptor and the users of a node that has lost its name.

        That one may be in the middle of a held call: it keeps the descriptor, and sees `unlinked`.
        """
        self.fd, self.read_only, self.lookups = other.fd, other.read_only, other.lookups
        self.handles, self.writers = other.handles, other.writers
        other.unlinked = True

    def release(self, *, writing: bool) -> None:
        self.handles -= 1
        if writing:
            self.writers -= 1
            if self.writers == 0:
                self.written_to_the_end()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def stat(self) -> os.stat_result:
        return os.stat(self.path) if self.fd < 0 else os.fstat(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def check_writable(self) -> None:
        errno = self.gatekeeper.refuse_errno
        if errno:
            raise OSError(errno, os.strerror(errno))

    async def write(self, offset: int, data: bytes) -> int:
        self.check_writable()
        if offset == 0:
            self.look_at_head(data)
        return write_all(self.fd, data, offset)

    def look_at_head(self, data: bytes) -> None:
        """The file begins like this: a database in it is missed where it is not replicated."""
        if data.startswith(MAGIC) and not self.unlinked:
            misnamed.tell(self.name)

    async def truncate(self, size: int) -> None:
        self.check_writable()
        self._resize(size)

    def _resize(self, size: int) -> None:
        if self.fd >= 0 and not self.read_only:
            os.ftruncate(self.fd, size)
        else:
            os.truncate(self.path, size)

    async def fsync(self) -> None:
        os.fdatasync(self.fd)

    def opened_for_writing(self) -> None:
        """Somebody may write from now on, and nobody could before."""

    def written_to_the_end(self) -> None:
        """The last handle that could write is gone."""

    async def leave(self, act: Act, leaving: Leaving) -> None:  # noqa: ARG002 - for others
        """Lose the name, by `act`: what the file stands for is captured before. Raises OSError."""
        # a super-journal's end is that of a transaction over several databases
        self._refuse_if_fenced()
        await act()

    def remove(self) -> None:
        """Unlink the backing file. Raises OSError."""
        os.unlink(self.path)

    def appeared(self) -> None:
        """Another file was renamed to this name."""
        self.look_at_head(self.head())

    def moved_away(self) -> None:
        """Its folder is called otherwise now, and so is the file, with all beside it."""

    def head(self) -> bytes:
        """The file's first bytes, as far as they can be read."""
        try:
            with open(self.path, "rb") as file:
                return file.read(len(MAGIC))
        except OSError:
            return b""

    def _refuse_if_fenced(self) -> None:
        if self.gatekeeper.fenced:
            raise OSError(EROFS, os.strerror(EROFS))


class NamelessFile(File):
    """A file that has lost its name and is still open: nothing of it is captured or refused.

    SQLite finds files by their names. What programs go on to write here is seen by them alone, or
    comes to a database that has a name, and is captured there.
    """

    __slots__ = ()

    guarded = False

    @classmethod
    def of(cls, file: File) -> NamelessFile:
        """The same inode, descriptor and users."""
        nameless = cls(file.inode, file.name, file.path, file.gatekeeper)
        nameless.take_over(file)
        nameless.unlinked = True
        return nameless

    def check_writable(self) -> None:
        """Nobody replicates it."""


class Special(File):
    """A symbolic link or a socket: all but its name and attributes is the kernel's business."""

    __slots__ = ()

    def stat(self) -> os.stat_result:
        return os.lstat(self.path)

    def head(self) -> bytes:
        return b""


class ShmFile(File):
    """The WAL index. Processes map it.

    The kernel writes it back now and then, also on a replica.
    """

    __slots__ = ("database",)

    guarded = False

    def __init__(
        self, inode: int, name: str, path: str, database: str, gatekeeper: Gatekeeper
    ) -> None:
        super().__init__(inode, name, path, gatekeeper)
        self.database = database

    def check_writable(self) -> None:
        """Shared memory is no part of a transaction: it is always written."""

    async def write(self, offset: int, data: bytes) -> int:
        if offset == 0:
            self.look_at_head(data)
        return os.pwrite(self.fd, data, offset)

    def create(self, mode: int) -> None:
        super().create(mode)
        self.gatekeeper.shm_opened(self.database)

    async def leave(self, act: Act, leaving: Leaving) -> None:  # noqa: ARG002 - as File's
        await act()
        self.gatekeeper.shm_removed(self.database)

    def moved_away(self) -> None:
        self.gatekeeper.shm_removed(self.database)

    def appeared(self) -> None:
        super().appeared()
        self.gatekeeper.shm_opened(self.database)

    async def fsync(self) -> None:
        """Nobody needs it on disk: it is rebuilt after a crash."""


class Revoked:
    """What an open file is to those who had it for writing when the node ceased to be primary."""

    __slots__ = ("file",)

    guarded = True

    def __init__(self, file: File) -> None:
        self.file = file

    @property
    def fd(self) -> int:
        return self.file.fd

    async def write(self, offset: int, data: bytes) -> int:  # noqa: ARG002 - as File's
        raise OSError(EROFS, os.strerror(EROFS))

    async def fsync(self) -> None:
        await self.file.fsync()
