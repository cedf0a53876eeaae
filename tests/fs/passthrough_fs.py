"""A small file system on the poll loop, run by the tests.

`passthrough_fs.py SOURCE MOUNTPOINT UID`, as which user it mounts. It passes one directory
through. Unlinking a name that starts with "held" takes 200 ms.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pyfuse3

from litemq.fs import mount, trio_for_pyfuse3  # noqa: F401 - before the user changes
from litemq.fs.poll_loop import Event, PollLoop

HOLD_S = 0.2
CACHE_S = 300


class Passthrough(pyfuse3.Operations):
    def __init__(self, loop, source):
        super().__init__()
        self.loop = loop
        self.paths = {pyfuse3.ROOT_INODE: Path(source)}

    def path(self, parent, name):
        return self.paths[parent] / os.fsdecode(name)

    def entry(self, path, inode=None):
        found = path.lstat()
        entry = pyfuse3.EntryAttributes()
        for field in ("mode", "nlink", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns"):
            setattr(entry, f"st_{field}", getattr(found, f"st_{field}"))
        entry.st_ino = inode or found.st_ino + 1
        entry.entry_timeout = entry.attr_timeout = CACHE_S
        self.paths[entry.st_ino] = path
        return entry

    async def lookup(self, parent, name, ctx):
        try:
            return self.entry(self.path(parent, name))
        except FileNotFoundError:
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = 0
            entry.entry_timeout = CACHE_S
            return entry

    async def getattr(self, inode, ctx):
        return self.entry(self.paths[inode], inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        if fields.update_size:
            os.truncate(self.paths[inode], attr.st_size)
        return self.entry(self.paths[inode], inode)

    async def create(self, parent, name, mode, flags, ctx):
        path = self.path(parent, name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, mode)
        return pyfuse3.FileInfo(fh=fd), self.entry(path)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=os.open(self.paths[inode], os.O_RDWR), keep_cache=True)

    async def read(self, fh, off, size):
        return os.pread(fh, size, off)

    async def write(self, fh, off, buf):
        return os.pwrite(fh, buf, off)

    async def release(self, fh):
        os.close(fh)

    async def unlink(self, parent, name, ctx):
        if name.startswith(b"held"):
            go_on = Event()
            self.loop.call_later(HOLD_S, lambda: go_on.set("go on"))
            if await go_on.wait() != "go on":
                raise pyfuse3.FUSEError(5)
        if name == b"fail":
            raise ZeroDivisionError("a handler that is broken")
        if name == b"end":
            pyfuse3.terminate()
        self.path(parent, name).unlink()


def main(source, mountpoint, uid):
    os.setresuid(int(uid), int(uid), int(uid))
    loop = PollLoop()
    loop.install()
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    options = set(pyfuse3.default_options) - {"default_permissions"}
    with mount.writable(mountpoint):
        pyfuse3.init(Passthrough(loop, source), mountpoint, options)

    async def serve():
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await pyfuse3.main()

    try:
        loop.run(serve())
    finally:
        pyfuse3.close()
        loop.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
