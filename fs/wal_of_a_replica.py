"""Programs on a replica that open a database in WAL mode before its WAL is there.

SQLite reads such a database only beside its `-wal` and `-shm`, or where it may make them. On a
replica the applier makes them, a moment after the node has started, or has ceased to be the
primary; until then SQLite says "unable to open database file". Owns how long an open waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from litemq.errors import NotADatabaseError
from litemq.fs.files import File
from litemq.fs.pages import HEADER_BYTES, parse_header
from litemq.fs.poll_loop import PollLoop
from litemq.fs.tree import Tree

#: an applier that has not made it by then has other troubles
PATIENCE_S = 2.0
LOOK_S = 0.01


async def until_its_wal_is_there(file: File, tree: Tree, makes_none: Callable[[], bool]) -> None:
    """Return when SQLite can read the database: at once if it is in a rollback mode.

    `makes_none`: whether who opens it may not make a WAL, which may change meanwhile.
    """
    deadline_s = monotonic() + PATIENCE_S
    while makes_none() and _lacks_wal(file, tree) and monotonic() < deadline_s:
        await PollLoop.running().sleep(LOOK_S)


def _lacks_wal(file: File, tree: Tree) -> bool:
    names = tree.by_name
    if file.unlinked or (f"{file.name}-wal" in names and f"{file.name}-shm" in names):
        return False
    try:
        with open(file.path, "rb", 0) as found:
            return parse_header(os.pread(found.fileno(), HEADER_BYTES, 0)).wal
    except (OSError, NotADatabaseError):
        return False
