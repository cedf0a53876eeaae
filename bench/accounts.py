"""What became of the rows that were acknowledged, counted row by row.

Reads what the writers noted (bench/trial_writer.py), the database on the final primary, and what
nodes have kept aside as diverged. Changes nothing of it. Always true: every acknowledged row is
counted as present, diverged or lost, and as one of them only.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from litemq.actors import divergence
from litemq.actors.diverged_content import Content
from litemq.bench.local_node import LocalNode
from litemq.bench.trial_writer import TABLE
from litemq.errors import LiteMQError

BUSY_S = 5.0

#: a row: the node that took it, and its writer's number
Row = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ack:
    """A row that SQLite has acknowledged; times are nanoseconds on the monotonic clock."""

    node: str
    number: int
    began_ns: int
    told_ns: int

    @property
    def row(self) -> Row:
        return self.node, self.number


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of rows. Acknowledged are `present` on the final primary, `diverged` or `lost`."""

    acknowledged: int
    present: int
    diverged: int
    lost: int
    #: begun and acknowledged by the old primary after the new one's first acknowledgement
    overlapping: int
    #: begun by the old primary before that, and answered after it
    late: int

    @property
    def right(self) -> bool:
        return not self.lost and not self.overlapping


def read_acks(path: Path, node: str) -> list[Ack]:
    """In the order in which they were told."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        if line.endswith("\n"):  # else it is being written
            number, began_ns, told_ns = map(int, line.split())
            found.append(Ack(node, number, began_ns, told_ns))
    return found


def first_elsewhere(acks: Iterable[Ack], old: str, since_ns: int) -> Ack | None:
    """The first that another node than `old` has told after that moment."""
    others = [each for each in acks if each.node != old and each.told_ns > since_ns]
    return min(others, key=lambda each: each.told_ns, default=None)


def last_before(acks: Iterable[Ack], old: str, until_ns: int) -> Ack | None:
    """The last that `old` has told before that moment."""
    its = [each for each in acks if each.node == old and each.told_ns < until_ns]
    return max(its, key=lambda each: each.told_ns, default=None)


def settle(
    acks: Sequence[Ack], present: dict[Row, int], diverged: set[Row], first: Ack | None, old: str
) -> Account:
    """Count them. `present` gives the place of each row in the database; `first` is the first that
    was acknowledged after `old` had been the primary.
    """
    missing = [each for each in acks if each.row not in present]
    kept = sum(each.row in diverged for each in missing)
    overlapping = late = 0
    if first is not None:
        #: rows of a later term of the old primary stand behind the new one's
        begin = present.get(first.row)
        for each in acks:
            if each.node != old or each.told_ns <= first.told_ns:
                continue
            place = present.get(each.row)
            if place is not None and begin is not None and place > begin:
                continue
            if each.began_ns < first.told_ns:
                late += 1
            else:
                overlapping += 1
    return Account(
        acknowledged=len(acks),
        present=len(acks) - len(missing),
        diverged=kept,
        lost=len(missing) - kept,
        overlapping=overlapping,
        late=late,
    )


def rows_in(path: Path, trial: int) -> dict[Row, int]:
    """The rows of a trial and their places. Raises LiteMQError if SQLite can't read them."""
    query = f"SELECT node, number, id FROM {TABLE} WHERE trial=?"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            return {
                (node, number): place for node, number, place in database.execute(query, (trial,))
            }
    except sqlite3.Error as error:
        raise LiteMQError(f"{path} can't be read: {error}") from error


def diverged_rows(
    nodes: Iterable[LocalNode], database: str, trial: int, known: set[str]
) -> set[Row]:
    """The rows of a trial in what these nodes have kept aside, from its pages.

    Entries in `known` (node and ID) are left out, and those that were read join it. Raises
    LiteMQError if one can't be read.
    """
    found: set[Row] = set()
    for node in nodes:
        for entry in divergence.entries(node.layout.diverged):
            name = f"{node.name} {entry.id}"
            whole = divergence.readable(entry)
            if name in known or whole.database != database:
                continue
            known.add(name)
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "kept.db"
                Content(whole, node.layout.files / database).write_database(path)
                found |= rows_in(path, trial).keys()
    return found
