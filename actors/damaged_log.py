"""A log that can't be read is set aside, never deleted, and the node goes on without it.

The new log starts as if the database had been dropped just after the last TXID that was shown, so
that TXIDs go on and every replica notices; what is in the database then enters the log as one
transaction.
"""

from __future__ import annotations

import time
from pathlib import Path

from litemq import log
from litemq.actors.layout import Layout
from litemq.errors import FormatError
from litemq.txlog.checksums import EMPTY
from litemq.txlog.durable import storage_error
from litemq.txlog.position import ZERO, Position, parse
from litemq.txlog.store import DatabaseLog


def open_log(layout: Layout, name: str, segment_bytes: int) -> DatabaseLog:
    """Open the log of a database, a new one if the old one is damaged. Raises StorageError."""
    directory = layout.database(name)
    try:
        opened = DatabaseLog.open(directory, segment_bytes=segment_bytes, node_id=0)
        if opened.head.txid and not opened.head.epoch:
            opened.close(clean=False)
            raise FormatError(f"state.json in {directory} is lost, and with it the epochs")
        return opened
    except FormatError as error:
        last = _last_shown(layout.position(name))
        aside = _set_aside(layout, directory)
        log.get().warning(
            "the log is damaged; set aside, a new one starts",
            db=name,
            reason=str(error),
            aside=str(aside),
            txid=last.txid,
        )
    opened = DatabaseLog.open(directory, segment_bytes=segment_bytes, node_id=0)
    if last.txid:
        opened.reset(Position(last.epoch, last.txid + 1, EMPTY), 0, 0, b"")
    return opened


def _last_shown(path: Path) -> Position:
    try:
        return parse(path.read_text("ascii").strip())
    except (OSError, ValueError, FormatError):
        return ZERO


def _set_aside(layout: Layout, directory: Path) -> Path:
    aside = layout.damaged / f"{directory.name}-{time.time_ns() // 1_000_000}"
    try:
        layout.damaged.mkdir(exist_ok=True)
        directory.rename(aside)
    except OSError as error:
        raise storage_error(error, "set aside", directory) from error
    return aside
