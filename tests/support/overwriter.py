"""A program without locks that holds its database in memory and writes the whole file in place.

As sql.js is used with `writeFileSync`, and as `cp` over a database does:

    overwriter.py DATABASE NODE FILE SECONDS

reads the database, adds a row and some ballast, overwrites the file, which is empty for so many
SECONDS, and appends a line to FILE, `done N`; again and again, also when that is refused. SIGTERM
has it end between two turns.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

#: after a refusal (seconds)
REFUSED_S = 0.05
CHUNK_BYTES = 64 * 1024
BALLAST_BYTES = 250_000


def with_row(image: bytes, node: str, number: int) -> bytes:
    """The database with one more row."""
    app = sqlite3.connect(":memory:")
    if image:
        app.deserialize(image)
    app.execute("CREATE TABLE IF NOT EXISTS entry (node, number, ballast)")
    app.execute("UPDATE entry SET ballast = NULL")
    app.execute("INSERT INTO entry VALUES (?, ?, ?)", (node, number, os.urandom(BALLAST_BYTES)))
    app.commit()
    return app.serialize()


def overwrite(path: Path, image: bytes, empty_s: float) -> None:
    with open(path, "wb", buffering=0) as file:
        time.sleep(empty_s)
        for begin in range(0, len(image), CHUNK_BYTES):
            file.write(image[begin : begin + CHUNK_BYTES])


ending: list[int] = []


def main(database: Path, node: str, told: Path, empty_s: float) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    with open(told, "a", buffering=1) as notes:
        for number in range(1 << 30):
            if ending:
                return
            try:
                os.close(os.open(database, os.O_WRONLY))
                image = with_row(database.read_bytes(), node, number)
                overwrite(database, image, empty_s)
                notes.write(f"done {number}\n")
            except (OSError, sqlite3.Error):
                time.sleep(REFUSED_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
