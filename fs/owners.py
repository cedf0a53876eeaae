"""To whom a new file belongs: to its maker, as on a disk, or it is not made.

Only root can give files away. Always true: a maker to whom its file can't be given has the rights
of its owner in it by its mode, or has got an error and there is no file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from errno import EACCES

import pyfuse3
from pyfuse3 import RequestContext

from litemq import log
from litemq.fs.files import File

_told: set[int] = set()


def create_for(file: File, mode: int, ctx: RequestContext) -> None:
    """Make the backing file, for the process that asks. Raises OSError."""
    directory = os.path.dirname(file.path)
    foreign = ctx.uid not in (0, os.geteuid()) and os.geteuid() != 0
    if foreign and not _may_work(directory, mode, ctx):
        _tell(file.name, ctx.uid)
        raise OSError(EACCES, os.strerror(EACCES))
    file.create(mode)
    if os.geteuid() == 0:
        shared = os.stat(directory).st_mode & stat.S_ISGID
        if ctx.uid or (ctx.gid != os.getegid() and not shared):
            os.fchown(file.fd, ctx.uid, -1 if shared else ctx.gid)


def make_folder_for(path: str, name: str, mode: int, ctx: RequestContext) -> None:
    """The same of a folder; the node itself must be able to work in it. Raises OSError."""
    foreign = ctx.uid not in (0, os.geteuid()) and os.geteuid() != 0
    if foreign and not _may_work(os.path.dirname(path), mode, ctx):
        _tell(name, ctx.uid)
        raise OSError(EACCES, os.strerror(EACCES))
    os.mkdir(path)
    mode |= os.stat(path).st_mode & stat.S_ISGID  # handed on by the folder around it
    os.chmod(path, mode if os.geteuid() == 0 else mode | stat.S_IRWXU)
    give(path, ctx)


def give(path: str, ctx: RequestContext) -> None:
    """What was made at `path` to its maker, if this is root."""
    if os.geteuid() == 0:
        shared = os.stat(os.path.dirname(path)).st_mode & stat.S_ISGID
        os.chown(path, ctx.uid, -1 if shared else ctx.gid, follow_symlinks=False)


def _may_work(directory: str, mode: int, ctx: RequestContext) -> bool:
    """Whether the process can read, write and delete a file of this mode that is the node's."""
    found = os.stat(directory)
    if found.st_mode & stat.S_ISVTX:  # only owners delete
        return False
    gid = found.st_gid if found.st_mode & stat.S_ISGID else os.getegid()
    rights = mode >> 3 if gid in _groups(ctx) else mode
    return rights & 0o6 == 0o6


def _groups(ctx: RequestContext) -> set[int]:
    groups = {ctx.gid}
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # of another PID namespace
        groups |= pyfuse3.get_sup_groups(ctx.pid)
    return groups


def _tell(name: str, uid: int) -> None:
    """Once for each user."""
    if uid in _told:
        return
    _told.add(uid)
    log.get().warning(
        "refused to make a file for another user; run the node as root, or share a group",
        file=name,
        uid=uid,
    )
