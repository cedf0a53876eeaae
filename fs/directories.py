"""Folders, links and lists of names: the part of the edge to pyfuse3 that commits nothing.

Owns what the kernel is told of directories. Always true: on a replica nobody but its applier makes
or removes a folder; a link leads to no place outside the mount, as far as its text tells.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from litemq.fs.attributes import attributes_of
from litemq.fs.capture import Gatekeeper
from litemq.fs.errnos import errnos
from litemq.fs.files import File
from litemq.fs.folders import Folder
from litemq.fs.listings import Listings
from litemq.fs.owners import give, make_folder_for
from litemq.fs.tree import Tree
from litemq.fs.virtual import VirtualFiles

CACHE_S = 3600.0
#: as on a disk
MAX_FILE_NAME_BYTES = 255


class DirectoryOperations(pyfuse3.Operations):
    """What is asked of folders."""

    #: where the tree is mounted, as the configuration names it
    _mount_path: str
    _tree: Tree
    _gatekeeper: Gatekeeper
    _virtual: VirtualFiles
    _listings: Listings

    def _attributes(self, file: File) -> EntryAttributes:
        raise NotImplementedError

    # --- lists

    @errnos
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._listings.open(self._folder(inode))

    @errnos
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        folder = self._listings.folder(fh)
        backing = self._tree.path(folder.name)
        for place, base in self._listings.read(fh, start_id, lambda: os.listdir(backing)):
            name = posixpath.join(folder.name, base)
            node = self._tree.by_name.get(name) or self._tree.folders.by_name.get(name)
            if node is None:  # it has gone meanwhile, or is neither a file nor a folder
                continue
            attr = (
                self._attributes(node) if isinstance(node, File) else self._folder_attributes(node)
            )
            if not pyfuse3.readdir_reply(token, os.fsencode(base), attr, place):
                break
            node.lookups += 1

    @errnos
    async def releasedir(self, fh: int) -> None:
        self._listings.close(fh)

    @errnos
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        # SQLite does so behind the making of a journal, and with synchronous=EXTRA behind its end
        folder = self._listings.folder(fh)
        if not folder.gone:
            self._tree.sync(folder.name)

    @errnos
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        under = os.statvfs(self._tree.backing)
        data = pyfuse3.StatvfsData()
        for name in (
            "f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree",
            "f_favail",
        ):  # fmt: skip
            setattr(data, name, getattr(under, name))
        data.f_namemax = MAX_FILE_NAME_BYTES
        return data

    # --- folders and links

    @errnos
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        new = self._new(parent, name, ctx)
        wanted = stat.S_IMODE(mode) & ~ctx.umask
        make_folder_for(self._tree.path(new), new, wanted, ctx)
        folder = self._tree.add_folder(new)
        folder.lookups += 1
        return self._folder_attributes(folder)

    @errnos
    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        text = self._child(parent, name)
        folder = self._tree.folders.by_name.get(text)
        if folder is None:
            raise FUSEError(errno.ENOTDIR if text in self._tree.by_name else errno.ENOENT)
        self._check_may_change(ctx.pid)
        os.rmdir(self._tree.path(text))
        self._tree.folders.remove(folder)

    @errnos
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        new = self._new(parent, name, ctx)
        text = target.decode("utf-8", "surrogateescape")
        at = posixpath.join(self._mount_path, posixpath.dirname(new))
        leads_to = posixpath.normpath(posixpath.join(at, text))
        if posixpath.commonpath([leads_to, self._mount_path]) != self._mount_path:
            raise FUSEError(errno.EPERM)
        os.symlink(text, self._tree.path(new))
        return self._add_special(new, ctx)

    @errnos
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return os.fsencode(os.readlink(self._tree.by_inode[inode].path))

    async def link(self, *_: object) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    @errnos
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """A file or a socket. Whoever opened a FIFO under a database's name would wait for ever."""
        if stat.S_ISREG(mode):
            info, attributes = await self.create(parent, name, mode, os.O_WRONLY, ctx)
            await self.release(info.fh)
            return attributes
        if not stat.S_ISSOCK(mode):
            raise FUSEError(errno.EPERM)
        new = self._new(parent, name, ctx)
        os.mknod(self._tree.path(new), stat.S_IFSOCK | stat.S_IMODE(mode) & ~ctx.umask)
        return self._add_special(new, ctx)

    def _add_special(self, name: str, ctx: RequestContext) -> EntryAttributes:
        give(self._tree.path(name), ctx)
        node = self._tree.add_special(name)
        node.lookups += 1
        return self._attributes(node)

    # --- names

    def _child(self, parent: int, name: bytes) -> str:
        """The path of what is called so in a folder. Raises OSError, FUSEError."""
        if len(name) > MAX_FILE_NAME_BYTES:
            raise FUSEError(errno.ENAMETOOLONG)
        return self._tree.folders.child(parent, name.decode("utf-8", "surrogateescape"))

    def _named(self, name: str) -> File:
        file = self._tree.by_name.get(name)
        if file is None:
            raise FUSEError(errno.EACCES if self._virtual.has(name) else errno.ENOENT)
        return file

    def _check_is_free(self, name: str, pid: int) -> None:
        """Whether a file may be called so. A replica has what its primary has."""
        if self._virtual.has(name) and not self._gatekeeper.admitted(pid):
            raise FUSEError(errno.EACCES)

    def _new(self, parent: int, name: bytes, ctx: RequestContext) -> str:
        text = self._child(parent, name)
        self._check_is_free(text, ctx.pid)
        if text in self._tree.by_name or text in self._tree.folders.by_name:
            raise FUSEError(errno.EEXIST)
        self._check_may_change(ctx.pid)
        return text

    def _check_may_change(self, pid: int) -> None:
        """Whether folders may come, go and get other names."""
        if self._gatekeeper.read_only and not self._gatekeeper.admitted(pid):
            raise FUSEError(errno.EROFS)
        if self._gatekeeper.refuse_errno:
            raise FUSEError(self._gatekeeper.refuse_errno)

    def _folder(self, inode: int) -> Folder:
        folder = self._tree.folders.by_inode.get(inode)
        if folder is None or folder.gone:
            raise FUSEError(errno.ENOENT)
        return folder

    def _folder_attributes(self, folder: Folder) -> EntryAttributes:
        if folder.gone:
            raise FUSEError(errno.ENOENT)
        return attributes_of(folder.inode, os.stat(self._tree.path(folder.name)), CACHE_S)
