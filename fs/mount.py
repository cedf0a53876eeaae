"""Mount points: what is mounted where, taking away what a killed process left, ending a session.

Owns: the directory under a mount. Never reads or stats anything inside a mount, which could wait
for the very process that serves it: what is mounted is read from /proc/self/mountinfo.
Always true: a prepared mount point is an empty directory of mode 0555, and for root, who ignores
modes, a guarded one: an empty read-only file system lies between the directory and the mount. So
nothing can be written under the mount by mistake while it is down.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from litemq.errors import ConfigError, StorageError

MODE_UNDER_MOUNT = 0o555
GUARD = "litemq-guard"
_MNT_FORCE, _MNT_DETACH = 1, 2
_GUARD_FLAGS = 1 | 2 | 4 | 8  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC
_UNMOUNT_TIMEOUT_S = 10.0
_MOUNTINFO = Path("/proc/self/mountinfo")
_CONNECTIONS = Path("/sys/fs/fuse/connections")
#: what calls in a mount are answered whose process has died: later ones, and those under way
GONE = (errno.ENOTCONN, errno.ECONNABORTED)
_STALE = (*GONE, errno.EIO)


@dataclass(frozen=True, slots=True)
class MountEntry:
    path: str
    minor: int
    """Of the device: the name of a FUSE connection under /sys/fs/fuse/connections."""
    fs_type: str
    source: str


def find_mount(path: str) -> MountEntry | None:
    """What is mounted on exactly this path; the topmost, if several are."""
    wanted = _real(path)
    found = None
    for line in _MOUNTINFO.read_text("utf-8", "surrogateescape").splitlines():
        fields, _, after = line.partition(" - ")
        _id, _parent, device, _root, mounted_on, *_ = fields.split(" ")
        if _unescape(mounted_on) == wanted:
            minor = int(device.partition(":")[2])
            fs_type, source, _options = after.split(" ", 2)
            found = MountEntry(wanted, minor, fs_type, _unescape(source))
    return found


def mounted_devices() -> set[tuple[int, int]]:
    """Major and minor numbers of all that is mounted here."""
    found = set()
    for line in _MOUNTINFO.read_text("utf-8", "surrogateescape").splitlines():
        major, _, minor = line.split(" ", 3)[2].partition(":")
        found.add((int(major), int(minor)))
    return found


def is_mounted(path: str) -> bool:
    return find_mount(path) is not None


def stale_mount(path: str) -> bool:
    """A FUSE mount whose process is gone. (Asks the mount: only for one that nobody serves, or
    that another process serves.)"""
    entry = find_mount(path)
    if entry is None or not entry.fs_type.startswith("fuse"):
        return False
    try:
        os.statvfs(entry.path)
    except OSError as exc:
        return exc.errno in _STALE
    return False


def clean_stale_mount(path: str) -> bool:
    """Detaches every mount left on this path, guards included; whether there was one.

    Raises ConfigError for a mount that is alive or somebody else's, StorageError.
    """
    cleaned = False
    while (entry := find_mount(path)) is not None:
        if entry.source != GUARD:
            detach_stale_fuse(path)
        else:
            detach(entry.path)
        cleaned = True
    return cleaned


def detach_stale_fuse(path: str) -> None:
    """Detaches what a killed FUSE process left on this path, down to the guard, if there is one."""
    while (entry := find_mount(path)) is not None and entry.source != GUARD:
        if not stale_mount(path):
            raise ConfigError(f"{path}: something is mounted there and alive; unmount it first")
        detach(entry.path)


def guard(path: str) -> bool:
    """Puts an empty read-only file system over the directory, if the kernel lets us (root only)."""
    if os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    source, target = GUARD.encode(), os.fsencode(_real(path))
    return bool(libc.mount(source, target, b"tmpfs", _GUARD_FLAGS, b"size=4k,mode=0555") == 0)


def prepare_mountpoint(path: str) -> None:
    """Makes the directory if need be. Raises ConfigError if it holds anything or is no directory.

    Mode 0555 keeps others from writing there while nothing is mounted; root ignores modes, so
    what root wrote there is refused rather than hidden under the mount.
    """
    directory = Path(path)
    try:
        directory.mkdir(mode=MODE_UNDER_MOUNT, exist_ok=True)
        found = next(directory.iterdir(), None)
        if found is None:
            directory.chmod(MODE_UNDER_MOUNT)
    except FileExistsError as exc:
        raise ConfigError(f"{path}: the mount point is not a directory") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be a mount point: {exc.strerror}") from exc
    if found is not None:
        raise ConfigError(
            f"{path}: the mount point must be empty, but holds {found.name!r}; move its files away"
        )


@contextmanager
def writable(path: str) -> Iterator[None]:
    """While mounting as an ordinary user: fusermount3 refuses a directory its user can't write to.

    Afterwards the directory, now under the mount, is as it was.
    """
    if os.geteuid() == 0:
        yield
        return
    under = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchmod(under, MODE_UNDER_MOUNT | stat.S_IWUSR)
        yield
    finally:
        os.fchmod(under, MODE_UNDER_MOUNT)
        os.close(under)


def abort(path: str) -> bool:
    """Ends the FUSE session mounted here: every call in it fails, and new ones do, at once.

    For a process that no longer answers. The mount stays, stale, or is gone. False if there is no
    such session, or the kernel does not let us.
    """
    entry = find_mount(path)
    if entry is None or not entry.fs_type.startswith("fuse"):
        return False
    try:
        (_CONNECTIONS / str(entry.minor) / "abort").write_text("1")
    except OSError:
        # fusectl is not mounted (containers); a forced unmount aborts, even where it is refused
        return os.geteuid() == 0 and _umount2(entry.path, _MNT_FORCE) in (0, errno.EBUSY)
    return True


def _umount2(path: str, flags: int) -> int:
    """0 or an errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.umount2(os.fsencode(path), flags) == 0 else ctypes.get_errno()


def detach(path: str) -> None:
    """Takes away what is mounted on the path; who has files open there keeps them.

    Raises StorageError, ConfigError without fusermount3.
    """
    if os.geteuid() == 0:
        number = _umount2(path, _MNT_DETACH)
        if number:
            raise StorageError(f"{path}: cannot be unmounted: {os.strerror(number)}", number)
        return
    program = shutil.which("fusermount3")
    if program is None:
        raise ConfigError("fusermount3 is not installed; install the package fuse3")
    try:
        done = subprocess.run(
            [program, "-u", "-z", "--", path],
            capture_output=True,
            text=True,
            timeout=_UNMOUNT_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise StorageError(f"{path}: no process for fusermount3: {error.strerror}") from error
    if done.returncode != 0:
        raise StorageError(f"{path}: cannot be unmounted: {done.stderr.strip()}", errno.EPERM)


def _real(path: str) -> str:
    """Symbolic links resolved in all but the last part, which may be a mount that hangs."""
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def _unescape(field: str) -> str:
    """The kernel writes blanks, tabs, newlines and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
