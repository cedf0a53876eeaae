"""What a file in the mount is to SQLite, told by its name alone.

Never touches a file. Always true: `classify` gives every name exactly one kind, and a name that is
a DATABASE can be a folder's name in the data directory and a topic in the stream.

Source: https://www.sqlite.org/tempfiles.html
"""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_NAME_BYTES = 200
POSITION_SUFFIX = "-pos"
PRIMARY_NAME = ".primary"


class Kind(Enum):
    DATABASE = auto()
    WAL = auto()
    SHM = auto()
    JOURNAL = auto()
    SUPER_JOURNAL = auto()
    """Names the journals of a transaction over several databases."""
    POSITION = auto()
    """`<database>-pos`: made by us, read only."""
    PRIMARY = auto()
    """`.primary`: made by us, read only."""
    OTHER = auto()
    """Passed through and never replicated."""


_SUFFIXES = {
    "-wal": Kind.WAL,
    "-shm": Kind.SHM,
    "-journal": Kind.JOURNAL,
    POSITION_SUFFIX: Kind.POSITION,
}
_COMPANION = re.compile(r"(?s)(.+)(-wal|-shm|-journal|-pos)")
# "-mj", then six hexadecimal digits, "9" and two more; SQLite tries other digits if it is taken
_SUPER_JOURNAL = re.compile(r"(?s)(.+)-mj[0-9A-F]{6}9[0-9A-F]{2}")


def classify(name: str) -> tuple[Kind, str]:
    """The kind, and the name of the database it belongs to ("" for PRIMARY and OTHER)."""
    if name == PRIMARY_NAME:
        return Kind.PRIMARY, ""
    if match := _SUPER_JOURNAL.fullmatch(name):
        kind, database = Kind.SUPER_JOURNAL, match[1]
    elif match := _COMPANION.fullmatch(name):
        kind, database = _SUFFIXES[match[2]], match[1]
    else:
        kind, database = Kind.DATABASE, name
    return (kind, database) if is_database_name(database) else (Kind.OTHER, "")


def is_database_name(name: str) -> bool:
    """A plain file name, none of SQLite's temporary or companion files, none of ours."""
    if not name or name.startswith((".", "etilqs_")) or "/" in name or "\0" in name:
        return False
    if _COMPANION.fullmatch(name) or _SUPER_JOURNAL.fullmatch(name):
        return False
    try:
        return len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # not UTF-8 on the disk: it could not be a topic
        return False
