"""A program that opens a database, reads and closes it, again and again: `reader.py DATABASE FILE`.

An error that follows another becomes a line of FILE, and so does every hundredth time that all was
well ("ok").
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing


def main(database: str, told: str) -> None:
    well = failed = 0
    with open(told, "a", buffering=1) as notes:
        while True:
            try:
                with closing(sqlite3.connect(database)) as app:
                    app.execute("SELECT count(*) FROM t").fetchone()
            except sqlite3.Error as error:
                failed += 1
                if failed > 1:
                    notes.write(f"{error}\n")
            else:
                well, failed = well + 1, 0
                if well % 100 == 0:
                    notes.write("ok\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
