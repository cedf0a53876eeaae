"""Putting an existing SQLite file into the mount of a primary, as one transaction.

Uses the standard library's SQLite, through the mount, as any application would; what is written is
captured like every other commit. Never in a process that opens databases with sqlean. Always true:
readers and replicas see the old database or the new one, and a source that SQLite finds damaged is
refused before anything is written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from litemq.actors.client import NodeClient
from litemq.actors.layout import Layout, application_file
from litemq.config import Config
from litemq.errors import LiteMQError, NotADatabaseError
from litemq.fs.lock_holders import held_by
from litemq.fs.names import is_database_name
from litemq.fs.pages import read_header
from litemq.transport import messages as m

#: called with pages done and pages in all
Progress = Callable[[int, int], None]

BUSY_TIMEOUT_S = 15.0
_STEP_PAGES = 1024
_RETRY_S = 0.05


def import_database(
    config: Config, client: NodeClient, name: str, source: Path, progress: Progress
) -> m.Head:
    """Create or replace the database `name`; its head afterwards. Raises LiteMQError."""
    if not is_database_name(name):
        raise LiteMQError(f"{name!r} can't be the name of a database")
    _require_primary(config, client)
    target = application_file(config, name)
    files = Layout(config.node.data_dir).files
    if config.mount.fuse and target.exists() and not (files / name).exists():
        raise LiteMQError(f"{name!r} can't be the name of a database: it shows a position")
    if target.is_symlink():
        raise LiteMQError(f"{name} is a symbolic link to {os.readlink(target)}: import as that")
    if source.exists() and target.exists() and os.path.samefile(source, target):
        raise LiteMQError(f"{source} is that database itself")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LiteMQError(f"{target.parent}: {error.strerror}") from error
    try:
        with contextlib.closing(_open_source(source)) as from_db:
            page_size = _check_source(from_db, source)
            with contextlib.closing(_connect(f"file:{quote(str(target))}")) as to_db:
                _replace(from_db, to_db, page_size, progress)
    except sqlite3.Error as error:
        held = held_by(str(target)) if "locked" in str(error) else ""
        raise LiteMQError(f"can't import {source} as {name}: {error}{held}") from error
    head = client.head(name)
    if head is None or not head.pages:
        raise LiteMQError(f"{name} was written, but is not in the log; see `litemq tail`")
    return head


def _require_primary(config: Config, client: NodeClient) -> None:
    status = client.status()
    if status.role == "primary":
        return
    primary = status.primary
    raise LiteMQError(
        f"node {config.node.name} is a replica; import on the primary ({primary}) instead"
    )


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _open_source(source: Path) -> sqlite3.Connection:
    """Read-only, with what its WAL holds; the first bytes are looked at before SQLite does."""
    try:
        with source.open("rb") as file:
            read_header(lambda size: os.pread(file.fileno(), size, 0))
    except OSError as error:
        raise LiteMQError(f"{source}: {error.strerror}") from error
    except NotADatabaseError as error:
        raise NotADatabaseError(f"{source} is not a SQLite database: {error}") from error
    return _connect(f"file:{quote(str(source.absolute()))}?mode=ro")


def _check_source(database: sqlite3.Connection, source: Path) -> int:
    """Hold a read transaction and have SQLite check everything; the page size."""
    try:
        database.execute("BEGIN")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        (page_size,) = database.execute("PRAGMA page_size").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise NotADatabaseError(f"{source}: {error}") from error
    if verdict != "ok":
        raise NotADatabaseError(f"{source} is damaged: {' '.join(str(verdict).split())}")
    return int(page_size)


def _replace(
    from_db: sqlite3.Connection, to_db: sqlite3.Connection, page_size: int, progress: Progress
) -> None:
    (mode,) = to_db.execute("PRAGMA journal_mode").fetchone()
    (old_size,) = to_db.execute("PRAGMA page_size").fetchone()
    (pages,) = to_db.execute("PRAGMA page_count").fetchone()
    leaves_wal = bool(pages) and mode == "wal" and old_size != page_size
    if leaves_wal:
        # SQLite's backup can't change the page size of a database in WAL mode. This needs a moment
        # in which nobody else has it open.
        _set_mode(to_db, "delete")
    deadline_s = [time.monotonic() + BUSY_TIMEOUT_S, 0.0]

    def stepped(status: int, remaining: int, total: int) -> None:
        del status
        now = time.monotonic()
        if total - remaining > deadline_s[1]:
            deadline_s[:] = [now + BUSY_TIMEOUT_S, float(total - remaining)]
        elif now > deadline_s[0]:
            raise sqlite3.OperationalError("database is locked")
        progress(total - remaining, total)

    try:
        from_db.backup(to_db, pages=_STEP_PAGES, progress=stepped, sleep=_RETRY_S)
    finally:
        if leaves_wal:
            _set_mode(to_db, "wal")


def _set_mode(database: sqlite3.Connection, mode: str) -> None:
    (got,) = database.execute(f"PRAGMA journal_mode={mode}").fetchone()
    if got != mode:
        raise LiteMQError(
            f"the journal mode can't be changed to {mode} while others have the database open"
        )
