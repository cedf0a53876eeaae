"""What a file in the mount is to SQLite, told by its name alone.

Names are paths from the top of the mount, parted by "/". Never touches a file. Always true:
`classify` gives every name exactly one kind; a name that is a DATABASE leads to no place outside
the mount, can be a topic in the stream, and has one folder in the data directory, all its own.

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
    folder, slash, base = name.rpartition("/")
    if match := _SUPER_JOURNAL.fullmatch(base):
        kind, database = Kind.SUPER_JOURNAL, folder + slash + match[1]
    elif match := _COMPANION.fullmatch(base):
        kind, database = _SUFFIXES[match[2]], folder + slash + match[1]
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
    """A path below the mount, none of SQLite's temporary or companion files, not `.primary`."""
    parts = name.split("/")
    if name == PRIMARY_NAME or "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
        return False
    base = parts[-1]
    if base.startswith(TEMPORARY_PREFIX):
        return False
    if _COMPANION.fullmatch(base) or _SUPER_JOURNAL.fullmatch(base):
        return False
    try:
        return len(log_folder(name).encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # not UTF-8 on the disk: it could not be a topic
        return False


def log_folder(database: str) -> str:
    """What the folder of a database's log is called: its name, in which "%" and "/" are escaped.

    Whatever comes in, it is a plain name: no path, and neither "." nor "..".
    """
    if database in (".", ".."):
        return database.replace(".", "%2E")
    return database.replace("%", "%25").replace("/", "%2F")


def database_of_log(folder: str) -> str:
    """The database whose log is in a folder of that name."""
    return folder.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def why_no_database(name: str) -> str:
    """The rule by which a file of that name is not replicated, whatever it holds; "" if none is."""
    if is_database_name(name) or name == PRIMARY_NAME:
        return ""
    folder, _, name = name.rpartition("/")
    if match := _SUPER_JOURNAL.fullmatch(name):
        return f"it is the name of a super-journal of {match[1]}"
    if match := _COMPANION.fullmatch(name):
        return f"{match[2]!r} at its end is what SQLite adds to {match[1]} for a file of its own"
    if name.startswith(TEMPORARY_PREFIX):
        return f"{TEMPORARY_PREFIX!r} begins the names of SQLite's temporary files"
    try:
        (folder + name).encode()
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return f'it is longer than {MAX_NAME_BYTES} bytes, where each "/" and "%" counts as three'
