"""What programs are told of a WAL that has zeros laid out ahead of its writer: its length without.

Owns nothing. Always true: the kernel never believes in a size below its own. It would cut its pages
there, under a write that it has taken and not sent yet.
"""

from __future__ import annotations

import os

import pyfuse3
from pyfuse3 import EntryAttributes

from litemq.fs.files import File
from litemq.fs.sqlite_files import WalFile

#: Linux since this version passes on the answer to what was asked before it was told to forget all
#: attributes, and does not keep it (fuse_change_attributes(), fuse_reverse_inval_inode())
_FORGETS_SINCE = (5, 7)


def _forgets(release: str) -> bool:
    version = release.split("-", 1)[0].split(".")[:2]
    return all(part.isdecimal() for part in version) and (
        tuple(map(int, version)) >= _FORGETS_SINCE
    )


_CAN_TELL = _forgets(os.uname().release)


def as_written(file: File, entry: EntryAttributes) -> EntryAttributes:
    """What a program that asks for a file's attributes is told; the kernel does not believe it."""
    if not isinstance(file, WalFile) or file.written_bytes is None or not _CAN_TELL:
        return entry
    try:
        pyfuse3.invalidate_inode(file.inode, attr_only=True)
    except OSError:
        return entry
    entry.st_size = file.written_bytes
    return entry


def readable_bytes(file: WalFile, offset: int, size: int) -> int:
    """How many of these bytes were written, as far as they would be zeros laid out ahead."""
    if file.written_bytes is None:
        return size
    return max(min(size, file.written_bytes - offset), 0)
