"""A database in a file that is none by its name: nobody replicates it, so it is told.

Always true: each name is told once while the mount lives.
"""

from __future__ import annotations

from litemq import log
from litemq.fs.names import why_no_database

_told: set[str] = set()


def tell(name: str) -> None:
    if name in _told:
        return
    _told.add(name)
    log.get().warning(
        "the file holds a database and is not replicated because of its name; rename it",
        file=name,
        reason=why_no_database(name),
    )
