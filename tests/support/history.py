"""A history of writes, as programs that know of LiteMQ only which epoch a node says to serve in.

    history.py writer PATH DATA-DIR ACKS NAME SYNCHRONOUS BEFORE   writes rows while it may
    history.py reader PATH DATA-DIR FINDINGS                       reads until it is killed

A writer numbers its rows from BEFORE on: those of another one on its node have other marks. It adds
to ACKS what SQLite acknowledged: its number, the epoch, when it asked for the commit and when it
was told (monotonic ns). A reader adds to FINDINGS what must not be: half of a transaction, a hole,
a row gone or changed although the node had seen no later epoch than the row's.
Both go on after any error of SQLite's.

Always true of the database: row `id` is the id-th transaction, in both tables, and `tally` is their
number; the epochs of the rows never fall.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

RETRY_S = 0.01
PAUSE_S = 0.001
BUSY_S = 2.0


def open_history(mode: str) -> list[str]:
    """Statements that make the database."""
    return [
        f"PRAGMA journal_mode={mode}",
        "BEGIN",
        "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, mark TEXT, epoch INT, rest)",
        "CREATE TABLE IF NOT EXISTS pair (id INTEGER PRIMARY KEY, mark TEXT)",
        "CREATE TABLE tally (total INTEGER)",
        "INSERT INTO tally VALUES (0)",
        "COMMIT",
    ]


def mark(name: str, number: int) -> str:
    """What a row is known by, also in the bytes of a page."""
    return f"<{name}:{number}>"


def number_in(path: Path) -> int:
    """The epoch in a file of a node's data directory, 0 if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def write(path: str, data_dir: Path, acks: Path, name: str, synchronous: str, number: int) -> None:
    with acks.open("a", buffering=1) as out:
        while True:
            try:
                with closing(
                    sqlite3.connect(
                        f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_S
                    )
                ) as db:
                    db.execute(f"PRAGMA synchronous={synchronous}")
                    while True:
                        number += 1
                        epoch, asked_ns = add(db, mark(name, number), data_dir / "term")
                        out.write(f"{number} {epoch} {asked_ns} {time.monotonic_ns()}\n")
                        time.sleep(PAUSE_S)
            except sqlite3.Error:
                time.sleep(RETRY_S)


def add(db: sqlite3.Connection, text: str, term: Path) -> tuple[int, int]:
    """One transaction; its epoch, and when its commit was asked for (monotonic ns).

    The epoch is the node's when it began, -1 if another had begun by its end.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        epoch = number_in(term)
        db.execute("UPDATE tally SET total=total+1")
        db.execute(
            "INSERT INTO entry SELECT total, ?, ?, randomblob(300) FROM tally", (text, epoch)
        )
        db.execute("INSERT INTO pair SELECT total, ? FROM tally", (text,))
        asked_ns = time.monotonic_ns()
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return epoch if number_in(term) == epoch else -1, asked_ns


class Reader:
    """What one reader has seen last."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._id = self._epoch = 0
        self._mark = ""

    def look(self, db: sqlite3.Connection) -> str:
        """Read once; what is wrong, "" if nothing is."""
        db.execute("BEGIN")
        try:
            found = db.execute(
                "SELECT (SELECT total FROM tally), (SELECT max(id) FROM pair), "
                "(SELECT mark FROM entry WHERE id=?)",
                (self._id,),
            ).fetchone()
            last = db.execute("SELECT id, epoch, mark FROM entry ORDER BY id DESC LIMIT 1")
            row = last.fetchone() or (0, 0, "")
        finally:
            db.execute("COMMIT")
        seen = number_in(self._data_dir / "epoch")
        total, pairs, again = found
        if not total == (pairs or 0) == row[0]:
            return f"half a transaction: {total} counted, {pairs} pairs, {row[0]} entries"
        if self._id and again != self._mark and seen <= self._epoch:
            return f"{self._mark}, row {self._id} of epoch {self._epoch}, became {again}"
        self._id, self._epoch, self._mark = row
        return ""


def read(path: str, data_dir: Path, findings: Path) -> None:
    reader = Reader(data_dir)
    reads = 0
    with findings.open("a", buffering=1) as out:
        while True:
            try:
                with closing(
                    sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
                ) as db:
                    while True:
                        wrong = reader.look(db)
                        if wrong:
                            out.write(f"wrong: {wrong}\n")
                        reads += 1
                        if reads % 20 == 1:
                            out.write(f"reads {reads}\n")
                        time.sleep(0.01)
            except sqlite3.DatabaseError as error:
                if "malformed" in str(error) or "not a database" in str(error):
                    out.write(f"wrong: {error}\n")
                time.sleep(RETRY_S)


def main() -> None:
    role, path, data_dir, file, *rest = sys.argv[1:]
    if role == "writer":
        name, synchronous, before = rest
        write(path, Path(data_dir), Path(file), name, synchronous, int(before))
    else:
        read(path, Path(data_dir), Path(file))


if __name__ == "__main__":
    main()
