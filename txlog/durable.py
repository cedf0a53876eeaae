"""Small writes that survive a power loss, and one way to turn the disk's refusals into
StorageError.

Always true: a file written here is, after any crash, the old one or the new one, whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

from litemq.errors import StorageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_KEEP_SIZE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def storage_error(error: OSError, action: str, path: Path) -> StorageError:
    return StorageError(f"cannot {action} {path}: {error.strerror or error}", error.errno)


def sync_directory(directory: Path) -> None:
    """Make creations, renames and deletions in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def reserve(fd: int, size: int) -> None:
    """Have the blocks of the first `size` bytes allocated; the file does not grow. Raises OSError.

    Where the C library or the file system can't do it, nothing happens.
    """
    try:
        failed = _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))
    except AttributeError:
        return
    number = ctypes.get_errno()
    if failed and number not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(number, os.strerror(number))


def write_atomically(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace `path` by `data`: a spare file is written and synced, then the two change names.

    Without `sync` nobody ever reads half of it either, but a power loss may bring back what was
    there before, or an empty file.

    The spare stays, and with it the block it takes: a small file can be replaced on a full disk,
    which is what makes room there.
    """
    spare = path.with_name(path.name + ".tmp")
    try:
        _overwrite(spare, data, sync=sync)
        if not _exchange(path, spare):
            spare.replace(path)
            with contextlib.suppress(OSError):
                _overwrite(spare, data, sync=sync)
        if sync:
            sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, "write", path) from error


def _overwrite(path: Path, data: bytes, *, sync: bool) -> None:
    """In the blocks that the file has."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], written)
        os.ftruncate(fd, len(data))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(path: Path, other: Path) -> bool:
    """False where there is no `path` yet, or the file system can't do it."""
    first, second = os.fsencode(path), os.fsencode(other)
    try:
        renamed = _libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE)
    except AttributeError:  # a C library without it
        return False
    return bool(renamed == 0)
