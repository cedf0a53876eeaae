"""Python's sqlite3, one connection for the life of the process.

stdlib.py DATABASE wal|delete      the journal mode is the database's; it is here for the name
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

from dialogue import COUNT_AND_NEWEST, serve


class Application:
    def __init__(self, path: str) -> None:
        self._path = path
        self._db = sqlite3.connect(path)

    def write(self, mark: str) -> None:
        with self._db:
            self._db.execute("INSERT INTO entry (mark) VALUES (?)", (mark,))

    def read(self) -> Any:
        return self._db.execute(COUNT_AND_NEWEST).fetchone()

    def renew(self) -> None:
        self._db.close()
        self._db = sqlite3.connect(self._path)


if __name__ == "__main__":
    application = Application(sys.argv[1])
    serve(write=application.write, read=application.read, renew=application.renew)
