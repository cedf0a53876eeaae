"""sqlite-utils.

sqlite_utils_tables.py DATABASE library    one Database object for the life of the process
sqlite_utils_tables.py DATABASE command    `sqlite-utils`, started for each request
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dialogue import COUNT_AND_NEWEST, serve
from sqlite_utils import Database

COMMAND = Path(sys.executable).with_name("sqlite-utils")


class Library:
    def __init__(self, path: str) -> None:
        self._path = path
        self._db = Database(path)

    def write(self, mark: str) -> None:
        with self._db.conn:
            self._db["entry"].insert({"mark": mark})

    def read(self) -> Any:
        return self._db.execute(COUNT_AND_NEWEST).fetchone()

    def renew(self) -> None:
        self._db.close()
        self._db = Database(self._path)


class Command:
    def __init__(self, path: str) -> None:
        self._path = path

    def write(self, mark: str) -> None:
        self._run("insert", self._path, "entry", "-", text=json.dumps({"mark": mark}))

    def read(self) -> Any:
        (row,) = json.loads(self._run("query", self._path, COUNT_AND_NEWEST, "--arrays"))
        return row

    def renew(self) -> None:
        """There is nothing to renew."""

    def _run(self, *words: str, text: str = "") -> str:
        done = subprocess.run(
            [COMMAND, *words], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip()[-300:])
        return done.stdout


if __name__ == "__main__":
    made = Library(sys.argv[1]) if sys.argv[2] == "library" else Command(sys.argv[1])
    serve(write=made.write, read=made.read, renew=made.renew)
