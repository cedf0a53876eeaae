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
TEMPORARY_PREFIX = "etilqs_"


class Kind(Enum):
    DATABASE = auto()
    WAL = auto()
    SHM = auto()
    JOURNAL = auto()
    SUPER_JOURNAL = auto()
    """Names the journals of a transaction over several databases."""
    PRIMARY = auto()
    """`.primary`: made by us, read only."""
    OTHER = auto()
    """Passed through and never replicated."""


_SUFFIXES = {
    "-wal": Kind.WAL,
    "-shm": Kind.SHM,
    "-journal": Kind.JOURNAL,
}
_COMPANION = re.compile(r"(?s)(.+)(-wal|-shm|-journal)")
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


def database_of_position(name: str) -> str:
    """The database whose position a file of this name would show, "" if it is no such name.

    The name is a virtual file's only while there is that database; any other may have it.
    """
    database = name.removesuffix(POSITION_SUFFIX)
    return database if database != name and is_database_name(database) else ""


def is_database_name(name: str) -> bool:
    """A plain file name, none of SQLite's temporary or companion files, not `.primary`."""
    if name in ("", ".", "..", PRIMARY_NAME) or "/" in name or "\0" in name:
        return False
    if name.startswith(TEMPORARY_PREFIX):
        return False
    if _COMPANION.fullmatch(name) or _SUPER_JOURNAL.fullmatch(name):
        return False
    try:
        return len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # not UTF-8 on the disk: it could not be a topic
        return False


def why_no_database(name: str) -> str:
    """The rule by which a file of that name is not replicated, whatever it holds; "" if none is."""
    if match := _SUPER_JOURNAL.fullmatch(name):
        return f"it is the name of a super-journal of {match[1]}"
    if match := _COMPANION.fullmatch(name):
        return f"{match[2]!r} at its end is what SQLite adds to {match[1]} for a file of its own"
    if name.startswith(TEMPORARY_PREFIX):
        return f"{TEMPORARY_PREFIX!r} begins the names of SQLite's temporary files"
    if "/" in name:
        return "it is in a folder"
    if is_database_name(name) or name == PRIMARY_NAME:
        return ""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return f"it is longer than {MAX_NAME_BYTES} bytes"
