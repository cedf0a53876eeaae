"""Have the kernel write dirty pages: to the disk, or to whoever serves the file system."""

from __future__ import annotations

import ctypes
import os

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_libc = ctypes.CDLL(None, use_errno=True)


def start_write_out(fd: int, offset: int, length: int) -> None:
    """Begin with `length` bytes of the file at `offset`. A hint: what fails shows at the fsync."""
    try:
        begin = _libc.sync_file_range
    except AttributeError:  # a C library without it
        return
    begin(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _WRITE)


def write_out(fd: int) -> None:
    """Return when all dirty pages of the file have been written. No fsync; raises OSError."""
    everything = ctypes.c_int64(0)
    if _libc.sync_file_range(fd, everything, everything, _WAIT_BEFORE | _WRITE | _WAIT_AFTER):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
