"""A program that writes rows, one a transaction, for as long as one node lets it.

Run as `python -m litemq.bench.trial_writer '{"path": ..., "node": ..., ...}'`, one for each node:
that is a client which goes to whoever is the primary, and finds out by trying. Uses the standard
library only. For each row that SQLite has acknowledged a line stands in `acks` before the next row
is begun: its number, when it was begun and when it was acknowledged, in nanoseconds on the
monotonic clock, which all processes of a machine share. Always true: no number is used twice, so
one that was not acknowledged may be in the database or not, and is never asked about.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from typing import TextIO

BUSY_S = 2.0
RETRY_S = 0.005
TABLE = "t"

_stopping = False


def _stop(_number: int, _frame: object) -> None:
    global _stopping
    _stopping = True


def prepare(path: str) -> None:
    """Make the table. Raises sqlite3.Error."""
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {TABLE} "
            "(id INTEGER PRIMARY KEY, trial INTEGER, node TEXT, number INTEGER, v TEXT)"
        )


class Writer:
    """One node's."""

    def __init__(
        self, path: str, node: str, trial: int, rate: float, number: int, acks: TextIO
    ) -> None:
        """`rate`: rows a second, at most; `number`: the one before the first row's."""
        self._uri = f"file:{path}?mode=rw"
        self._node, self._trial, self._pause_s = node, trial, 1 / rate
        self._acks = acks
        self._number = number

    def run(self) -> None:
        """Until SIGTERM."""
        while not _stopping:
            try:
                with closing(
                    sqlite3.connect(self._uri, uri=True, timeout=BUSY_S, isolation_level=None)
                ) as database:
                    self._write(database)
            except sqlite3.Error:
                time.sleep(RETRY_S)

    def _write(self, database: sqlite3.Connection) -> None:
        insert = f"INSERT INTO {TABLE} (trial, node, number, v) VALUES (?, ?, ?, ?)"
        due_s = time.monotonic()
        while not _stopping:
            self._number += 1
            row = (self._trial, self._node, self._number, random.randbytes(50).hex())
            began_ns = time.monotonic_ns()
            database.execute(insert, row)
            self._acks.write(f"{self._number} {began_ns} {time.monotonic_ns()}\n")
            due_s = max(due_s + self._pause_s, time.monotonic() - self._pause_s)
            time.sleep(max(0.0, due_s - time.monotonic()))


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.loads(sys.argv[1])
    with open(asked.pop("acks"), "a", buffering=1) as acks:
        Writer(**asked, acks=acks).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
