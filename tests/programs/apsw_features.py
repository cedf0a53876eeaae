"""What SQLite can do beyond tables, through APSW, one connection for the life of the process.

    apsw_features.py DATABASE search      each row is in an FTS5 and an R-Tree index, too
    apsw_features.py DATABASE blobs       each mark is also written into a large blob, in place
    apsw_features.py DATABASE sessions    the changeset of each row is kept, too

A read compares the second place with the table and fails if they differ.
"""

from __future__ import annotations

import sys
from typing import Any

import apsw
from dialogue import COUNT_AND_NEWEST, serve

BLOB_SIZE = 1 << 20
SLOT_SIZE = 32
SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (mark);
CREATE VIRTUAL TABLE IF NOT EXISTS places USING rtree (id, low, high);
CREATE TABLE IF NOT EXISTS board (id INTEGER PRIMARY KEY, body BLOB);
INSERT OR IGNORE INTO board VALUES (1, zeroblob(1048576));
CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY, changeset BLOB);
"""


class Application:
    def __init__(self, path: str, setup: str) -> None:
        self._path, self._setup = path, setup
        self._db = self._connect()

    def _connect(self) -> apsw.Connection:
        db = apsw.Connection(self._path)
        db.set_busy_timeout(5000)
        if not db.readonly("main"):
            db.execute(SCHEMA)
        return db

    def renew(self) -> None:
        self._db.close()
        self._db = self._connect()

    def write(self, mark: str) -> None:
        with self._db:
            session = apsw.Session(self._db, "main")
            session.attach("entry")
            self._db.execute("INSERT INTO entry (mark) VALUES (?)", (mark,))
            number = self._db.last_insert_rowid()
            changeset = session.changeset()
            session.close()
            if self._setup == "search":
                self._db.execute("INSERT INTO words (rowid, mark) VALUES (?, ?)", (number, mark))
                self._db.execute(
                    "INSERT INTO places VALUES (?, ?, ?)", (number, number, number + 0.5)
                )
            elif self._setup == "blobs":
                with self._db.blob_open("main", "board", "body", 1, True) as blob:
                    blob.seek(number * SLOT_SIZE % BLOB_SIZE)
                    blob.write(mark.encode().ljust(SLOT_SIZE))
            else:
                self._db.execute("INSERT INTO changes VALUES (?, ?)", (number, changeset))

    def read(self) -> Any:
        with self._db:
            for number, mark in self._db.execute(
                "SELECT id, mark FROM entry ORDER BY id DESC LIMIT 5"
            ):
                found = self._second_place(number, mark)
                if found != mark:
                    raise RuntimeError(f"row {number} is {mark}, and {found!r} in the second place")
            return next(iter(self._db.execute(COUNT_AND_NEWEST)))

    def _second_place(self, number: int, mark: str) -> str:
        if self._setup == "search":
            (found,) = self._db.execute(
                "SELECT mark FROM words WHERE words MATCH ?", (f'"{mark}"',)
            )
            ((place,),) = self._db.execute(
                "SELECT id FROM places WHERE low <= ?1 + 0.25 AND high >= ?1 + 0.25", (number,)
            )
            return str(found[0]) if place == number else f"at {place}"
        if self._setup == "blobs":
            with self._db.blob_open("main", "board", "body", 1, False) as blob:
                blob.seek(number * SLOT_SIZE % BLOB_SIZE)
                return str(blob.read(SLOT_SIZE).decode().rstrip())
        ((changeset,),) = self._db.execute("SELECT changeset FROM changes WHERE id=?", (number,))
        (mark,) = [str(change.new[1]) for change in apsw.Changeset.iter(changeset)]
        return mark


if __name__ == "__main__":
    application = Application(*sys.argv[1:])
    serve(write=application.write, read=application.read, renew=application.renew)
