"""Which of SQLite's files may be deleted by their names.

A connection into a mount that has died goes on by names, and those lead into the next mount. When
it is closed it takes itself for the last one, and deletes a WAL and its index: here, where others
use them, or where frames of a dead writer are all there is of a commit. A reader of that kind may
take a live journal for a dead writer's. Owns the rule, and changes nothing. Always true: what
SQLite deletes by right it deletes under a lock on the database, which the kernel tells of.
"""

from __future__ import annotations

from collections.abc import Callable

from litemq.fs.files import File, ShmFile
from litemq.fs.kernel_locks import is_exclusive, is_written
from litemq.fs.sqlite_files import JournalFile, WalFile


class Deletions:
    """In one mount."""

    def __init__(self, device: int, *, after_a_death: bool) -> None:
        """`device`: the minor number of the mount's. `after_a_death`: programs may have files open
        in one that was there before.
        """
        self._device = device
        self._after_a_death = after_a_death

    def allowed(self, file: File, database: File | None, in_use: Callable[[File], bool]) -> bool:
        """Whether the file may go; `database` is the one it belongs to, if that is there.

        `in_use` tells whether a program has a file open. Raises OSError.
        """
        looked_at = isinstance(file, (ShmFile, WalFile)) or (
            self._after_a_death and isinstance(file, JournalFile)
        )
        if not looked_at or database is None or not database.stat().st_size:
            return True  # beside an empty database SQLite deletes a WAL of another one
        if isinstance(file, JournalFile):
            return is_written(self._device, database.inode)
        has_frames = isinstance(file, WalFile) and file.stat().st_size > 0
        if not has_frames and not in_use(file):
            return True
        return is_exclusive(self._device, database.inode)
