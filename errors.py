"""Every error LiteMQ raises on purpose, as one tree.

A message is one line that says what is wrong and what to change. Errno values belong to `fs/`,
printing and process exit to `cli.py`; the exit codes stand here so that an error has exactly one.
"""

from __future__ import annotations

from os import PathLike, fspath


class LiteMQError(Exception):
    """Anything a user may see without a traceback."""

    exit_code = 1


class ConfigError(LiteMQError):
    """The configuration cannot be used; the message names the file and the key."""

    exit_code = 2


class NotReadyError(LiteMQError):
    """The node runs, but does not serve yet."""

    exit_code = 3


class NotRunningError(LiteMQError):
    """No node answers in this data directory."""

    exit_code = 4


class FormatError(LiteMQError):
    """Bytes that are not what they claim to be."""


class NotADatabaseError(FormatError):
    """A file that SQLite would not open as a database."""


class NotInTheClearError(NotADatabaseError):
    """A file that begins as SQLite's do and is not what SQLite itself would read: encrypted, of
    another engine, half a header.
    """


class CorruptRecordError(FormatError):
    """Damage inside a log segment, as opposed to a torn tail, which is ordinary after a crash."""

    def __init__(self, path: str | PathLike[str], offset: int, reason: str) -> None:
        self.path = fspath(path)
        self.offset = offset
        self.reason = reason
        super().__init__(f"{self.path}: record at byte {offset} is corrupt: {reason}")

    def __reduce__(self) -> tuple[type[CorruptRecordError], tuple[str, int, str]]:
        return type(self), (self.path, self.offset, self.reason)


class ProtocolError(LiteMQError):
    """A message from a socket that is foreign, oversized, malformed or of another version."""


class GapError(LiteMQError):
    """A record that does not follow the head of the log, by its TXID or its pre-apply checksum."""


class StorageError(LiteMQError):
    """The disk refused: full, read-only, failing. `errno` is the one the system call gave."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        self.errno = errno
        super().__init__(message)

    def __reduce__(self) -> tuple[type[StorageError], tuple[str, int | None]]:
        return type(self), (str(self), self.errno)


class NoThreadError(LiteMQError):
    """The system gives this process no thread, or no process, more: a limit is reached."""


class BehindLogError(StorageError):
    """A database lacks what its log has, and could not be given it. A matter of that one file,
    whatever the errno: for want of its room or its rights the others need not wait.
    """
