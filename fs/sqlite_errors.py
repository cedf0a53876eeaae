"""What SQLite's refusals mean here: a lock, a disk, or a file that is none of its databases.

Always true: no error of SQLite's leaves as it is; what it does not explain is of that one file.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import sqlean  # type: ignore[import-untyped]

from litemq.errors import LiteMQError, NotADatabaseError, StorageError

#: what SQLite raises, by way of Python
SQLITE_ERRORS = (sqlean.Error, MemoryError)


class BusyError(LiteMQError):
    """Another process holds a lock that this needs; nothing was changed, try again later."""


@contextmanager
def translated(path: str) -> Iterator[None]:
    try:
        yield
    except SQLITE_ERRORS as exc:
        raise translate(exc, path) from exc


_BUSY = {sqlean.SQLITE_BUSY, sqlean.SQLITE_LOCKED, sqlean.SQLITE_PROTOCOL}
_ERRNO = {
    sqlean.SQLITE_FULL: errno.ENOSPC,
    sqlean.SQLITE_READONLY: errno.EROFS,
    sqlean.SQLITE_CANTOPEN: errno.EACCES,
    sqlean.SQLITE_IOERR: errno.EIO,
    sqlean.SQLITE_PERM: errno.EACCES,
}
_NO_DATABASE = {sqlean.SQLITE_NOTADB, sqlean.SQLITE_CORRUPT}


def translate(exc: Exception, path: str) -> Exception:
    """SQLite's result code (its low byte) as an error of ours.

    What SQLite does not explain (a schema of a newer format, a limit of this build) is of this one
    file, too.
    """
    if isinstance(exc, MemoryError):
        return StorageError(f"{path}: out of memory", errno.ENOMEM)
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return BusyError(f"{path}: {exc}")
    if code in _ERRNO:
        return StorageError(f"{path}: {exc}", _ERRNO[code])
    if code in _NO_DATABASE:
        return NotADatabaseError(f"{path}: {exc}")
    return StorageError(f"{path}: {exc}", errno.EIO)
