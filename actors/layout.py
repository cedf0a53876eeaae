"""Where a node keeps things in its private data directory, and who writes them.

files/                 the backing files of the mount            fuse capture
databases/NAME/        log, page checksums, state                 the owner of the log
databases/NAME/position what `NAME-pos` shows                     the owner of the log
log/                   the structured log                         every actor
cluster                the id of the cluster the node belongs to  election watcher
epoch                  the highest epoch this node has seen       supervisor, owner of the log
damaged/               logs that could not be read, set aside     the owner of the log
diverged/              logs of another history than the primary's the owner of the log
recovery/              a long WAL while SQLite checks it          log writer
term                   the epoch in which an elected node serves  supervisor
unlogged               databases that changed beyond their logs  log writer
lock                   held as long as the node runs              supervisor
mounted                exists while the mount is in use           fuse capture, supervisor
reserve                room for the ends of journals              fuse capture

A NAME is a path in the mount, in which "%" and "/" are written "%25" and "%2F".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from litemq.config import Config
from litemq.errors import FormatError
from litemq.fs.names import database_of_log, log_folder
from litemq.txlog.durable import reserve, storage_error, write_atomically
from litemq.txlog.position import ZERO, Position

EPOCH_DIGITS = 16
#: what stands in `mounted` when the mount was cut off on purpose, and all it had is in the log
REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one data directory, and the two small files every actor may read."""

    data_dir: Path

    @property
    def files(self) -> Path:
        return self.data_dir / "files"

    @property
    def databases(self) -> Path:
        return self.data_dir / "databases"

    @property
    def damaged(self) -> Path:
        return self.data_dir / "damaged"

    @property
    def diverged(self) -> Path:
        return self.data_dir / "diverged"

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def mounted(self) -> Path:
        return self.data_dir / "mounted"

    @property
    def reserve(self) -> Path:
        return self.data_dir / "reserve"

    @property
    def recovery(self) -> Path:
        return self.data_dir / "recovery"

    @property
    def unlogged(self) -> Path:
        return self.data_dir / "unlogged"

    @property
    def _term(self) -> Path:
        return self.data_dir / "term"

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    @property
    def _epoch(self) -> Path:
        return self.data_dir / "epoch"

    def database(self, name: str) -> Path:
        return self.databases / log_folder(name)

    def position(self, name: str) -> Path:
        return self.database(name) / "position"

    def database_names(self) -> list[str]:
        """The databases that have a log. Raises OSError."""
        return sorted(database_of_log(each) for each in os.listdir(self.databases))

    def create(self) -> None:
        """Make what is missing; the data directory itself exists. Raises StorageError."""
        for directory in (self.files, self.databases):
            try:
                with contextlib.suppress(FileExistsError):
                    directory.mkdir()
                    directory.chmod(0o755)  # of `files`, the mount shows it
            except OSError as error:
                raise storage_error(error, "create", directory) from error

    def read_epoch(self) -> int:
        """The highest epoch seen, 0 if none. Raises FormatError."""
        try:
            return int(self._epoch.read_text())
        except FileNotFoundError:
            return 0
        except ValueError as error:
            raise FormatError(
                f"{self._epoch} is damaged; write a number into it that is higher than the epoch "
                "any replica shows"
            ) from error

    def write_epoch(self, epoch: int) -> None:
        """Make the epoch durable before anything bears it; never a lower one.

        Raises StorageError.
        """
        directory = os.open(self.data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # several actors of a node come to know epochs
            try:
                fcntl.flock(directory, fcntl.LOCK_EX)
            except OSError as error:
                raise storage_error(error, "lock", self.data_dir) from error
            if epoch > self.read_epoch():
                write_atomically(self._epoch, b"%d\n" % epoch)
        finally:
            os.close(directory)

    def read_term(self) -> int:
        """The epoch in which this node was elected and has not ended its term, 0 if there is none.

        Raises FormatError.
        """
        try:
            return int(self._term.read_text())
        except FileNotFoundError:
            return 0
        except ValueError as error:
            raise FormatError(f"{self._term} is damaged; write the node's last epoch") from error

    def begin_term(self, epoch: int) -> None:
        """Raises StorageError."""
        write_atomically(self._term, b"%d\n" % epoch)

    def end_term(self) -> None:
        self._term.unlink(missing_ok=True)

    def read_cluster(self) -> str:
        """The id of the cluster that this node belongs to, "" if it belongs to none yet."""
        try:
            return self._cluster.read_text().strip()
        except FileNotFoundError:
            return ""

    def write_cluster(self, cluster: str) -> None:
        """Raises StorageError."""
        write_atomically(self._cluster, f"{cluster}\n".encode())


def is_there(path: Path | str) -> bool:
    """Whether there is a file of that name, and not a link that leads to another. Raises OSError if
    that can't be told: a file that can't be looked at has not gone.
    """
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def application_file(config: Config, name: str) -> Path:
    """Where applications see the database.

    In the mount, or among the plain files of a node without FUSE.
    """
    return config.mount.path / name


class PositionFile:
    """The small file behind `NAME-pos`.

    Rewritten in place at every position, read whole by the mount.
    """

    def __init__(self, path: Path) -> None:
        """Raises StorageError."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                reserve(self._fd, len(ZERO.text) + 1)
            except OSError:
                os.close(self._fd)
                raise
        except OSError as error:
            raise storage_error(error, "make room for", path) from error

    def show(self, position: Position) -> None:
        with contextlib.suppress(OSError):  # a full disk, just after a drop: the next one shows
            os.pwrite(self._fd, position.text.encode() + b"\n", 0)

    def hide(self) -> None:
        """The database is dropped: there is no position to show."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            reserve(self._fd, len(ZERO.text) + 1)

    def close(self) -> None:
        os.close(self._fd)
