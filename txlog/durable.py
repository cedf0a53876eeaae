"""Small writes that survive a power loss, and one way to turn the disk's refusals into
StorageError.

Always true: a file written here is, after any crash, the old one or the new one, whole.
"""

from __future__ import annotations

import os
from pathlib import Path

from litemq.errors import StorageError


def storage_error(error: OSError, action: str, path: Path) -> StorageError:
    return StorageError(f"cannot {action} {path}: {error.strerror or error}", error.errno)


def sync_directory(directory: Path) -> None:
    """Make creations, renames and deletions in `directory` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, "write", path) from error
