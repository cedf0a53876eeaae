"""Reading a node's log back, also while it is being written and set aside.

Only reads, and holds no lock. Every line comes out once, in the order in which it was written; a
half-written last line waits for its end, and bytes that are no line of ours come out as a warning.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from litemq.log import LEVELS, kept_path

_LOOK_AGAIN_S: Final = 0.1
_MOST_KEPT: Final = 100
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted; a line without a level of ours is never held back for it."""

    actor: str | None = None
    database: str | None = None
    level: str = "debug"

    def passes(self, record: dict[str, Any]) -> bool:
        return (
            (self.actor is None or record.get("actor") == self.actor)
            and (self.database is None or record.get("db") == self.database)
            and LEVELS.get(str(record.get("level")), 100) >= LEVELS[self.level]
        )


def tail(
    path: Path,
    *,
    follow: bool,
    wanted: Filter = Filter(),
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """The records of the log at `path` (`log.log_path`), from the oldest file that is kept.

    With `follow` it goes on for ever: through files set aside, and when there is no log yet.
    `pause` is called with seconds whenever there is nothing to read.
    """
    for line in _lines(path, follow, pause):
        record = _parse(line)
        if record is not None and wanted.passes(record):
            yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict):
        return record
    text = line.decode("utf-8", "backslashreplace")
    return {"level": "warning", "event": "unreadable log line", "text": text}


def _lines(path: Path, follow: bool, pause: Callable[[float], None]) -> Iterator[bytes]:
    with ExitStack() as held:
        last: BinaryIO | None = None
        while True:
            file = _open_after(path, last)
            if file is not None:
                # The last one stays open until now: a new file must not get its inode number.
                held.close()
                last = held.enter_context(file)
                yield from _lines_of(file, path, follow, pause)
            elif follow:
                pause(_LOOK_AGAIN_S)
            else:
                return


def _lines_of(
    file: BinaryIO, path: Path, follow: bool, pause: Callable[[float], None]
) -> Iterator[bytes]:
    """Lines until the file ends and is no longer the one that is written."""
    rest = b""
    moved = False
    while True:
        data = file.read(_READ_BYTES)
        if data:
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
        elif moved or not follow:
            break
        elif _is(path, os.fstat(file.fileno())):
            pause(_LOOK_AGAIN_S)
        else:
            moved = True  # read once more: the last lines may have come just before it was moved
    if rest:
        yield rest


def _open_after(path: Path, last: BinaryIO | None) -> BinaryIO | None:
    """The file after `last`, the oldest if that is gone or None; None if nothing follows."""
    found: list[BinaryIO] = []
    # From young to old: a file that is set aside meanwhile is met twice instead of missed.
    for number in range(_MOST_KEPT + 1):
        try:
            file: BinaryIO = kept_path(path, number).open("rb")
        except FileNotFoundError:
            continue
        if found and _same(found[-1], file):
            file.close()
        else:
            found.append(file)
    try:
        behind = next((i for i, file in enumerate(found) if last and _same(file, last)), len(found))
        return found.pop(behind - 1) if behind else None
    finally:
        for file in found:
            file.close()


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))


def _is(path: Path, seen: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), seen)
    except FileNotFoundError:
        return False
