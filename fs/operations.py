"""The thin edge to pyfuse3: requests in, files of the tree, attributes and errnos out.

Owns handles and the translation of errors to errnos. Never decides what a write means (files.py) or
when a call may go on (the gatekeeper). Always true: long timeouts are safe because every change to
the tree passes through here; what is virtual is never cached.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from litemq.fs.attributes import (
    attributes_of,
    of_what_is_gone,
    only_when_it_was_written,
    set_attributes,
)
from litemq.fs.capture import Gatekeeper
from litemq.fs.directories import CACHE_S, DirectoryOperations
from litemq.fs.errnos import answer, errnos
from litemq.fs.files import File, Leaving, Revoked, ShmFile, Special
from litemq.fs.folders import Folder
from litemq.fs.kernel_cache import CACHED_WRITES_S
from litemq.fs.listings import Listings
from litemq.fs.names import Kind, classify
from litemq.fs.owners import create_for
from litemq.fs.processes import may_write, process_of
from litemq.fs.sqlite_acts import SqliteActs
from litemq.fs.sqlite_files import DatabaseFile, JournalFile, WalFile
from litemq.fs.told_length import as_written, readable_bytes
from litemq.fs.tree import Tree
from litemq.fs.virtual import VirtualFiles
from litemq.fs.wal_of_a_replica import until_its_wal_is_there

#: what SQLite makes to read a database in WAL mode
READ_BESIDE = (Kind.WAL, Kind.SHM)
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR


class Operations(DirectoryOperations):
    """Databases and what stands beside them."""

    supports_dot_lookup = False

    def __init__(
        self, tree: Tree, gatekeeper: Gatekeeper, *, mount_path: str, cached: bool = False
    ) -> None:
        """`mount_path`: where it will be mounted. `cached`: have the kernel cache writes."""
        super().__init__()
        self._mount_path = mount_path
        self.enable_writeback_cache = cached
        self._tree = tree
        self._gatekeeper = gatekeeper
        self._virtual = VirtualFiles(gatekeeper, tree.by_name, tree.new_inode)
        self._listings = Listings()
        self._handles: dict[int, tuple[File | Revoked, bool]] = {}
        self._virtual_handles: dict[int, bytes] = {}
        self._openers: dict[int, int] = {}
        #: WALs open only for reading, by no SQLite: that opens them for writing if it may. They are
        #: read to the end, past the page cache, which has zeros there that were laid out ahead
        self._copied: dict[int, WalFile] = {}
        self._next_handle = 1
        #: until it is mounted nobody can ask
        self._acts = SqliteActs(0, after_a_death=False)

    def mounted(self, acts: SqliteActs) -> None:
        """The mount has come into being; that is how SQLite is known in it."""
        self._acts = acts

    # --- names and attributes

    @errnos
    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        text = self._child(parent, name)
        file = self._tree.by_name.get(text)
        if file is not None:
            file.lookups += 1
            return self._attributes(file)
        folder = self._tree.folders.by_name.get(text)
        if folder is not None:
            folder.lookups += 1
            return self._folder_attributes(folder)
        if self._virtual.may_become(text):
            inode = self._virtual.find(text)
            if inode is None or self._gatekeeper.admitted(ctx.pid):
                raise FUSEError(errno.ENOENT)
            return self._virtual_attributes(inode)
        # A cached "there is none": rollback-mode readers look for a journal at every transaction.
        missing = EntryAttributes()
        missing.st_ino = 0
        missing.entry_timeout = CACHE_S
        return missing

    @errnos
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        folder = self._tree.folders.by_inode.get(inode)
        if folder is not None:
            return self._folder_attributes(folder)
        file = self._tree.by_inode.get(inode)
        if file is None:
            return self._virtual_attributes(inode)
        if self.enable_writeback_cache and isinstance(file, (WalFile, JournalFile)):
            await self._within_term(file, ctx.pid)
        return as_written(file, self._attributes(file))

    async def _within_term(self, file: File, pid: int) -> None:
        """The kernel asks for a file's attributes before it takes a write into its cache.

        What ends a transaction is what is refused; of databases everybody asks. A process that has
        the file open only for reading gets its answer: SQLite takes a journal whose attributes it
        can't have for none.
        """
        gatekeeper = self._gatekeeper
        if gatekeeper.holding is None and not gatekeeper.fenced:
            return
        if gatekeeper.is_actor(pid) or not self._may_be_a_writer(file, pid):
            return
        if gatekeeper.holding is not None:
            await gatekeeper.holding.wait()
        if gatekeeper.fenced:
            raise FUSEError(errno.EROFS)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        with contextlib.suppress(FUSEError):  # nobody waits for an answer
            await self._forget(inode_list)

    @errnos
    async def _forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            file = self._tree.by_inode.get(inode)
            folder = self._tree.folders.by_inode.get(inode)
            if folder is not None:
                self._tree.folders.forget(folder, count)
            if file is not None:
                file.lookups -= count
                if file.lookups <= 0 and file.unlinked:
                    self._tree.release_if_unused(file)

    @errnos
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        folder = self._tree.folders.by_inode.get(inode)
        if folder is not None:
            # who may make databases here; whatever it says, this process may
            attr.st_mode |= stat.S_IRWXU
            set_attributes(self._tree.path(folder.name), attr, fields)
            return self._folder_attributes(folder)
        file = self._file(inode)
        if self.enable_writeback_cache and only_when_it_was_written(fields):
            # at every sync; the backing file has a time of its own, and the kernel keeps its own
            gone = file.unlinked and file.fd < 0  # an error would be that of a sync of the mount
            return of_what_is_gone(inode) if gone else self._attributes(file)
        if fields.update_size:
            self._check_is_given(file.name)
            await self._held_as_writes_are(file)
            opened = None if fh is None else self._handles.get(fh)
            if opened is None or isinstance(opened[0], Revoked):
                self._check_may_write(file, ctx.pid)
            await file.truncate(attr.st_size)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            self._check_may_write(file, ctx.pid)
        set_attributes(file.path if file.fd < 0 else file.fd, attr, fields)
        return self._attributes(file)

    # --- opening and closing

    @errnos
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        file = self._tree.by_inode.get(inode)
        if file is None:
            return await self._open_virtual(inode, flags)
        writing = bool(flags & WRITE_FLAGS)
        if writing and flags & os.O_TRUNC:
            await self._held_as_writes_are(file)
        if isinstance(file, DatabaseFile) and self._makes_no_wal(ctx.pid):
            await until_its_wal_is_there(file, self._tree, lambda: self._makes_no_wal(ctx.pid))
        self._check_may_read(file, ctx.pid)
        if writing:
            self._check_may_write(file, ctx.pid)
        file.open(writing=writing)
        if flags & os.O_TRUNC and writing:
            try:
                await file.truncate(0)
            except BaseException:
                self._close(file, writing)
                raise
        handle = self._new_handle(file, writing, ctx.pid)
        copied = not (writing or self.enable_writeback_cache or self._gatekeeper.read_only)
        if copied and isinstance(file, WalFile):
            self._copied[handle] = file
            return FileInfo(fh=handle, direct_io=True, keep_cache=True)
        return FileInfo(fh=handle, keep_cache=True)

    @errnos
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        text = self._child(parent, name)
        self._check_is_free(text, ctx.pid)
        self._check_is_given(text)
        kind, database = classify(text)
        if self.enable_writeback_cache and kind is Kind.JOURNAL:
            await self._held()
        if kind is Kind.WAL:
            # A new log writer is given again what is not acknowledged, and not behind these frames.
            # First of all: whether this may be made can be another question afterwards.
            await self._gatekeeper.commits_logged(database)
        if self._gatekeeper.read_only and not self._gatekeeper.admitted(ctx.pid):
            # EACCES is what has SQLite say "readonly" to who opened the database as a primary's
            raise FUSEError(errno.EACCES if kind is Kind.JOURNAL else errno.EROFS)
        if self._gatekeeper.refuse_errno not in (0, errno.ENOSPC) and kind not in READ_BESIDE:
            # Not for a full disk: SQLite would say that it can't open the file. The write says it.
            raise FUSEError(self._gatekeeper.refuse_errno)
        file = self._tree.add(text)
        try:
            create_for(file, stat.S_IMODE(mode) & ~ctx.umask, ctx)
        except OSError:
            self._tree.detach(file)
            raise
        self._tree.created(file)
        file.lookups += 1
        info = FileInfo(fh=self._new_handle(file, True, ctx.pid), keep_cache=True)
        return info, self._attributes(file)

    @errnos
    async def release(self, fh: int) -> None:
        if self._virtual_handles.pop(fh, None) is None:
            file, writing = self._handles.pop(fh)
            self._copied.pop(fh, None)
            del self._openers[fh]
            self._close(file.file if isinstance(file, Revoked) else file, writing)

    # --- bytes

    @errnos
    async def read(self, fh: int, off: int, size: int) -> bytes:
        handle = self._handles.get(fh)
        if handle is None:
            return self._virtual_handles[fh][off : off + size]
        if fh in self._copied:
            size = readable_bytes(self._copied[fh], off, size)
        return os.pread(handle[0].fd, size, off)

    async def _held(self) -> None:
        """A hand-over is under way: whoever writes waits until it is done, or given up."""
        if self._gatekeeper.holding is not None:
            await self._gatekeeper.holding.wait()

    async def _held_as_writes_are(self, file: File) -> None:
        """A database is about to be cut. What ends a transaction so, a journal, goes on."""
        if isinstance(file, DatabaseFile) and not self.enable_writeback_cache:
            await self._held()

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        # what the kernel has cached was taken before, and somebody may wait until it has come
        try:
            holding = None if self.enable_writeback_cache else self._gatekeeper.holding
            if holding is not None and self._handles[fh][0].guarded:
                await holding.wait()
            return await self._handles[fh][0].write(off, buf)
        except Exception as error:  # noqa: BLE001 - as `errnos` does, without its call
            raise answer(error, "write") from None

    @errnos
    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._handles.get(fh)
        if handle is not None:
            if self.enable_writeback_cache and isinstance(handle[0], JournalFile):
                await self._held()
            if isinstance(handle[0], DatabaseFile):
                await handle[0].fsync(self._openers[fh])
            else:
                await handle[0].fsync()

    # --- the directory

    @errnos
    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        file = self._named(self._child(parent, name))
        self._check_is_given(file.name)
        self._check_may_write(file, ctx.pid)
        leaving = self._leaving(file, ctx.pid)

        async def unlink() -> None:
            file.remove()
            self._detach(file)

        await file.leave(unlink, leaving)

    def _leaving(self, file: File, pid: int) -> Leaving:
        """Of what a program deletes, or renames away. Raises FUSEError."""
        database = self._tree.by_name.get(classify(file.name)[1])
        if self._acts.by_a_dead_mount(file, database, pid):
            raise FUSEError(errno.EBUSY)
        return Leaving(by_sqlite=self._acts.deletes(file, database))

    def _detach(self, file: File) -> None:
        """The file has lost its name; those who have it open keep it."""
        self._replace(file, self._tree.detach(file))

    def _replace(self, file: File, successor: File) -> None:
        """The node of an inode has changed its role."""
        if not successor.handles:
            return
        for handle, (opened, writing) in self._handles.items():
            if opened is file:
                self._handles[handle] = (successor, writing)
            elif isinstance(opened, Revoked) and opened.file is file:
                opened.file = successor

    @errnos
    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags & pyfuse3.RENAME_EXCHANGE:
            raise FUSEError(errno.EINVAL)
        new = self._child(parent_new, name_new)
        target = self._tree.by_name.get(new)
        folders = self._tree.folders.by_name
        if flags & pyfuse3.RENAME_NOREPLACE and (target is not None or new in folders):
            raise FUSEError(errno.EEXIST)
        self._check_is_free(new, ctx.pid)
        folder = folders.get(self._child(parent_old, name_old))
        if folder is not None:
            self._rename_folder(folder, new, ctx.pid)
            return
        file = self._named(self._child(parent_old, name_old))
        self._check_is_given(file.name)
        self._check_is_given(new)
        if new in folders:
            raise FUSEError(errno.EISDIR)
        self._check_may_write(file, ctx.pid)
        if target is not None:
            self._check_may_write(target, ctx.pid)
        if self._gatekeeper.refuse_errno:
            raise FUSEError(self._gatekeeper.refuse_errno)
        await self._rename(file, target, new)

    def _rename_folder(self, folder: Folder, new: str, pid: int) -> None:
        """Databases in it are databases under new names: as if each was renamed, all at once."""
        self._check_may_change(pid)
        if new in self._tree.by_name:
            raise FUSEError(errno.ENOTDIR)
        if any(name.startswith(f"{folder.name}/") for name in self._tree.withheld):
            raise FUSEError(errno.EBUSY)
        moved = self._tree.rename_folder(folder, new)
        for before, after in moved:
            self._replace(before, after)
        for _, after in moved:
            after.appeared()

    async def _rename(self, file: File, target: File | None, new: str) -> None:
        async def move() -> None:
            os.rename(file.path, self._tree.path(new))
            if target is not None:
                self._detach(target)
            # The kernel keeps the inode; under its new name the file may have another role.
            self._replace(file, self._tree.rename(file, new))

        async def leave() -> None:
            if target is None:
                await move()
            else:  # a link or a socket is no new content of the name
                replaced = not isinstance(file, Special)
                await target.leave(move, Leaving(by_sqlite=False, replaced=replaced))

        await file.leave(leave, Leaving(by_sqlite=False))
        self._tree.by_name[new].appeared()

    # --- a change of role, and the end

    @property
    def openers(self) -> set[int]:
        """Threads that have opened a file which is still open."""
        return set(self._openers.values())

    def ask_before_writes(self) -> None:
        """From now on the kernel asks before it takes a write to a WAL or a journal."""
        for file in self._tree.by_name.values():
            if isinstance(file, (WalFile, JournalFile)) and file.lookups > 0:
                with contextlib.suppress(OSError):  # the kernel knows no more of it
                    pyfuse3.invalidate_inode(file.inode, attr_only=True)

    def revoke_writers(self) -> None:
        """Whoever has a guarded file open for writing may only read it from now on."""
        for handle, (file, writing) in self._handles.items():
            if writing and isinstance(file, File) and file.guarded:
                self._handles[handle] = (Revoked(file), writing)

    # --- inside

    def _check_may_read(self, file: File, pid: int) -> None:
        self._check_is_given(file.name)
        gatekeeper = self._gatekeeper
        if (
            gatekeeper.unverified
            and isinstance(file, DatabaseFile)
            and not gatekeeper.is_actor(pid)
        ):
            raise FUSEError(errno.EBUSY)

    def _makes_no_wal(self, pid: int) -> bool:
        """Whether this thread can't make a WAL here: on a replica, and on the way to one."""
        gatekeeper = self._gatekeeper
        if not gatekeeper.read_only and gatekeeper.refuse_errno != errno.EROFS:
            return False
        return not gatekeeper.is_actor(pid) and not gatekeeper.admitted(pid)

    def _check_is_given(self, name: str) -> None:
        """Whether the database of this file may be used, and its names: its mode may be changed."""
        if self._tree.withholds(name):
            raise FUSEError(errno.EBUSY)

    def _check_may_write(self, file: File, pid: int) -> None:
        if self._gatekeeper.read_only and file.guarded and not self._gatekeeper.admitted(pid):
            # EACCES rather than EROFS: SQLite then opens read-only and names the reason at the
            # first write.
            raise FUSEError(errno.EACCES)

    def _may_be_a_writer(self, file: File, pid: int) -> bool:
        """Whether the process of this thread has the file open for writing, or may have.

        Of a process that can't be looked at, only if a file is open for writing that no process
        which can be looked at has opened.
        """
        writes = may_write(pid, file.inode, os.path.basename(file.name))
        if writes is not None:
            return writes
        return any(
            writing and not process_of(self._openers[handle])
            for handle, (opened, writing) in self._handles.items()
            if opened is file or (isinstance(opened, Revoked) and opened.file is file)
        )

    def _new_handle(self, file: File, writing: bool, pid: int) -> int:
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = (file, writing)
        self._openers[handle] = pid
        return handle

    def _close(self, file: File, writing: bool) -> None:
        try:
            file.release(writing=writing)
        finally:
            self._tree.release_if_unused(file)

    async def _open_virtual(self, inode: int, flags: int) -> FileInfo:
        database = self._virtual.database(inode)
        if database and not flags & WRITE_FLAGS:  # not in `lookup`: that holds the folder's lock
            await self._gatekeeper.position_is_fresh(database)
        contents = self._virtual.contents(inode)
        if contents is None:
            raise FUSEError(errno.ENOENT)
        if flags & WRITE_FLAGS:
            raise FUSEError(errno.EACCES)
        handle = self._next_handle
        self._next_handle += 1
        self._virtual_handles[handle] = contents
        return FileInfo(fh=handle, direct_io=True, keep_cache=False)

    def _file(self, inode: int) -> File:
        file = self._tree.by_inode.get(inode)
        if file is None:
            raise FUSEError(errno.EACCES if self._virtual.contents(inode) else errno.ENOENT)
        return file

    def _attributes(self, file: File) -> EntryAttributes:
        if file.unlinked and file.fd < 0:
            raise FUSEError(errno.ENOENT)  # another may have its name
        entry = attributes_of(file.inode, file.stat(), CACHE_S)
        if self._tree.withholds(file.name):  # it is about to be another file
            entry.entry_timeout = entry.attr_timeout = 0.0
            return entry
        if isinstance(file, WalFile) and file.written_bytes is not None:
            entry.attr_timeout = 0.0  # the kernel is told one size, and programs another
        if self.enable_writeback_cache and not isinstance(file, ShmFile):  # that is mapped
            entry.attr_timeout = CACHED_WRITES_S
            if isinstance(file, (WalFile, JournalFile)):
                entry.attr_timeout = self._gatekeeper.cached_writes_s
        return entry

    def _virtual_attributes(self, inode: int) -> EntryAttributes:
        contents = self._virtual.contents(inode)
        if contents is None:
            raise FUSEError(errno.ENOENT)
        found = os.stat(self._tree.backing)
        entry = attributes_of(inode, found, 0.0, stat.S_IFREG | 0o444)
        entry.st_size = len(contents)
        entry.st_nlink = 1
        return entry
