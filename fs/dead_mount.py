"""Whoever has files open in a dead mount must not go on reading what they were, in silence.

When the process that serves a mount is gone, the kernel still answers from its page cache, and
locks are its own: SQLite finds the database as it last was, for ever, without an error. So the
descriptors of such files are borrowed from the programs that have them (pidfd_getfd), and through
those what the kernel keeps is taken away: SQLite's next read is "disk I/O error". A WAL index is
mapped, so it is sealed instead: "unable to open database file". Either has programs open their
database anew.

Reads /proc and the descriptors it borrows; asks nothing of any mount that lives. Always true: only
files of that device are touched, and only when its session has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from litemq.fs import mount
from litemq.fs.names import Kind, classify
from litemq.fs.wal import INDEX_HEADER_BYTES, sealed_index

_PROC = Path("/proc")
_SYS_PIDFD_GETFD = 438
_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
#: struct statx: stx_dev_major and stx_dev_minor
_STATX_BYTES, _STATX_DEVICE = 256, 136
_ENDED = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)


@dataclass(slots=True)
class Readers:
    """Who had files open in a dead mount."""

    #: descriptors that lead nowhere any more
    ended: int = 0
    #: processes that we may not look into
    unknown: set[int] = field(default_factory=set)


class DeadMounts:
    """The mounts that one path has had, and what is still to be done about them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._devices: set[int] = set()

    def look(self) -> None:
        """Remember what is mounted there now, dead or alive."""
        entry = mount.find_mount(self._path)
        if entry is not None and entry.fs_type.startswith("fuse"):
            self._devices.add(entry.minor)

    def replaced(self) -> set[int]:
        """The devices of all that was mounted there before what is now, each told once."""
        entry = mount.find_mount(self._path)
        if entry is None or entry.minor not in self._devices:
            return set()  # it has been taken away, and may be served for another moment
        return self._tell({entry.minor})

    def all(self) -> set[int]:
        """The devices of all that was mounted there: none is any more."""
        return self._tell(set())

    def _tell(self, living: set[int]) -> set[int]:
        dead = self._devices - living
        self._devices = living
        return dead


def end_reads(devices: set[int]) -> Readers:
    """Have every program that has files open in these dead mounts notice it."""
    found = Readers()
    if not devices:
        return found
    for pid in (int(name) for name in os.listdir(_PROC) if name.isdigit()):
        with contextlib.suppress(OSError):  # it has ended
            _end_of_process(pid, devices, found)
    return found


def _end_of_process(pid: int, devices: set[int], found: Readers) -> None:
    candidates = list(_candidates(pid, devices))
    if not candidates:
        return
    process = os.pidfd_open(pid)
    try:
        for number, path in candidates:
            try:
                fd = _borrow(process, number)
            except PermissionError:
                found.unknown.add(pid)
                continue
            except OSError:  # closed meanwhile
                continue
            try:
                if _device(fd) in devices and _has_ended(fd):
                    _take_away(fd, path)
                    found.ended += 1
            finally:
                with contextlib.suppress(OSError):  # a dead mount can't be told
                    os.close(fd)
    finally:
        os.close(process)


def _candidates(pid: int, devices: set[int]) -> Iterator[tuple[int, str]]:
    """Descriptors of a process that may lead into these mounts, and their paths."""
    ours, listed = set(), set()
    for line in (_PROC / str(pid) / "mountinfo").read_bytes().splitlines():
        number, _parent, device, _ = line.split(b" ", 3)
        major, _, minor = device.partition(b":")
        listed.add(number)
        if major == b"0" and int(minor) in devices:
            ours.add(number)
    for name in os.listdir(_PROC / str(pid) / "fd"):
        try:
            path = os.readlink(_PROC / str(pid) / "fd" / name)
            if not path.startswith("/") or path.startswith(("/dev/", "/memfd:")):
                continue
            info = (_PROC / str(pid) / "fdinfo" / name).read_bytes()
        except OSError:
            continue
        number = info.partition(b"mnt_id:\t")[2].partition(b"\n")[0]
        # a mount that was detached is in no list
        if number in ours or number not in listed:
            yield int(name), path.removesuffix(" (deleted)")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _borrow(process: int, number: int) -> int:
    """A descriptor of ours for the same open file. Raises OSError."""
    fd = int(_libc().syscall(_SYS_PIDFD_GETFD, process, number, 0))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def _device(fd: int) -> int:
    """The minor number of the file's device, -1 if it has none. The mount is not asked."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _libc().statx(fd, b"", flags, 0, buffer) != 0:
        return -1
    major, minor = memoryview(buffer)[_STATX_DEVICE : _STATX_DEVICE + 8].cast("B").cast("I")
    return int(minor) if major == 0 else -1


def _has_ended(fd: int) -> bool:
    try:
        os.fstatvfs(fd)
    except OSError as error:
        return error.errno in _ENDED
    return False


def _take_away(fd: int, path: str) -> None:
    # a map of a file that is too short is a ValueError; whoever has it open has read nothing there
    with contextlib.suppress(OSError, ValueError, BufferError):
        if classify(os.path.basename(path))[0] is Kind.SHM:
            _seal(fd)
        else:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _seal(fd: int) -> None:
    """Through a map, as SQLite reads it; a page that is not in memory is left alone.

    The kernel copies between the map and a pipe, so a page that is gone is an error and no SIGBUS.
    """
    with mmap.mmap(fd, mmap.PAGESIZE) as index:
        inlet, outlet = os.pipe()
        try:
            os.write(outlet, memoryview(index)[:INDEX_HEADER_BYTES])
            header = os.read(inlet, INDEX_HEADER_BYTES)
            sealed = sealed_index(header)
            os.write(outlet, sealed)
            os.readv(inlet, [memoryview(index)[: len(sealed)]])
        finally:
            os.close(inlet)
            os.close(outlet)
