"""Attributes of files, between the kernel's request and the backing file.

Owns nothing. Never decides who may set what.
"""

from __future__ import annotations

import os
import stat

import pyfuse3
from pyfuse3 import EntryAttributes


def only_when_it_was_written(fields: pyfuse3.SetattrFields) -> bool:
    others = fields.update_size or fields.update_mode or fields.update_atime
    return fields.update_mtime and not (others or fields.update_uid or fields.update_gid)


def of_what_is_gone(inode: int) -> EntryAttributes:
    """A file without a name that nobody has open: the kernel only says when it was written last."""
    entry = EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = stat.S_IFREG
    entry.st_nlink = 0
    return entry


def set_attributes(target: int | str, attr: EntryAttributes, fields: pyfuse3.SetattrFields) -> None:
    """Mode, owner and times of a backing file, as far as they are to be set. Raises OSError."""
    follow = isinstance(target, int)  # a path may be that of a link
    if fields.update_mode:
        os.chmod(target, stat.S_IMODE(attr.st_mode))
    if fields.update_uid or fields.update_gid:
        uid = attr.st_uid if fields.update_uid else -1
        gid = attr.st_gid if fields.update_gid else -1
        os.chown(target, uid, gid, follow_symlinks=follow)
    if fields.update_atime or fields.update_mtime:
        now = os.stat(target, follow_symlinks=follow)
        accessed = attr.st_atime_ns if fields.update_atime else now.st_atime_ns
        modified = attr.st_mtime_ns if fields.update_mtime else now.st_mtime_ns
        os.utime(target, ns=(accessed, modified), follow_symlinks=follow)


def attributes_of(
    inode: int, found: os.stat_result, cache_s: float, mode: int | None = None
) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = found.st_mode if mode is None else mode
    entry.st_nlink = found.st_nlink
    entry.st_uid = found.st_uid
    entry.st_gid = found.st_gid
    entry.st_size = found.st_size
    entry.st_blksize = 4096
    entry.st_blocks = found.st_blocks
    entry.st_atime_ns = found.st_atime_ns
    entry.st_mtime_ns = found.st_mtime_ns
    entry.st_ctime_ns = found.st_ctime_ns
    entry.attr_timeout = cache_s
    entry.entry_timeout = cache_s
    return entry
