"""What programs do beside committing: open and close, spill, vacuum, roll back in part.

Each operation is done to a database at a path, natively or in a mount, by unmodified SQLite in this
process. Always true: an operation leaves its database consistent and closed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROW_BYTES = 100
#: a page of rows more than a cache of this many pages can hold (pages)
SMALL_CACHE = 5
VACUUM_BYTES = 20_000_000
LARGE_ROW_BYTES = 2_000
BUSY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Operation:
    """What is timed is `work`, which does the thing `times` times."""

    name: str
    times: int
    prepare: Callable[[Path], None]
    work: Callable[[Path, int], None]


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as database:
        yield database


def _table(mode: str, rows: int = 100, row_bytes: int = ROW_BYTES) -> Callable[[Path], None]:
    def prepare(path: Path) -> None:
        with _opened(path) as database:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
            database.execute(f"PRAGMA journal_mode = {mode}")
            database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
            _insert(database, rows, row_bytes)

    return prepare


def _insert(database: sqlite3.Connection, rows: int, row_bytes: int) -> None:
    database.execute(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT ?)"
        " INSERT INTO t(v) SELECT randomblob(?) FROM c",
        (rows, row_bytes),
    )


def _nothing(_path: Path) -> None:
    pass


def _read(path: Path, times: int) -> None:
    for _ in range(times):
        with _opened(path) as database:
            database.execute("SELECT v FROM t WHERE id = 1").fetchone()


def _write(path: Path, times: int) -> None:
    for _ in range(times):
        with _opened(path) as database:
            database.execute("INSERT INTO t(v) VALUES ('x')")


def _create(mode: str) -> Callable[[Path, int], None]:
    def work(path: Path, times: int) -> None:
        for number in range(times):
            with _opened(path.with_name(f"{path.name}-{number}.db")) as database:
                database.execute(f"PRAGMA journal_mode = {mode}")
                database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")

    return work


def _small_writes(path: Path, times: int) -> None:
    with _opened(path) as database:
        database.execute(f"PRAGMA cache_size = {SMALL_CACHE}")
        database.execute("BEGIN")
        for _ in range(times):
            database.execute("INSERT INTO t(v) VALUES (randomblob(?))", (ROW_BYTES,))
        database.execute("COMMIT")


def _vacuum(path: Path, times: int) -> None:
    with _opened(path) as database:
        for _ in range(times):
            database.execute("VACUUM")


def _incremental_vacuum(path: Path, times: int) -> None:
    """A page at a time, each in a transaction of its own."""
    with _opened(path) as database:
        database.execute("DELETE FROM t WHERE id % 2")
        for _ in range(times):
            database.execute("PRAGMA incremental_vacuum(1)").fetchall()


def _savepoints(path: Path, times: int) -> None:
    """Nested, in one transaction; what each writes is more than the cache holds."""
    with _opened(path) as database:
        database.execute(f"PRAGMA cache_size = {SMALL_CACHE}")
        database.execute("BEGIN")
        for _ in range(times):
            database.execute("SAVEPOINT one")
            database.execute("UPDATE t SET v = randomblob(?) WHERE id <= 50", (ROW_BYTES,))
            database.execute("SAVEPOINT two")
            database.execute("UPDATE t SET v = randomblob(?) WHERE id > 25", (ROW_BYTES,))
            database.execute("ROLLBACK TO two")
            database.execute("RELEASE one")
        database.execute("COMMIT")


def _temporary(path: Path, times: int) -> None:
    """Temporary tables whose file lies beside the database."""
    with _opened(path) as database:
        database.execute(f"PRAGMA temp_store_directory = '{path.parent}'")
        try:
            database.execute("PRAGMA temp_store = FILE")
            database.execute(f"PRAGMA temp.cache_size = {SMALL_CACHE}")
            for _ in range(times):
                database.execute("CREATE TEMP TABLE spilled AS SELECT id, v FROM t")
                database.execute("DROP TABLE spilled")
        finally:
            database.execute("PRAGMA temp_store_directory = ''")


def _copied(path: Path, times: int) -> None:
    """By SQLite's backup, ten pages a step."""
    with _opened(path) as database:
        for number in range(times):
            with _opened(path.with_name(f"{path.name}-{number}.db")) as copy:
                database.backup(copy, pages=10)


_large = VACUUM_BYTES // LARGE_ROW_BYTES

OPERATIONS = (
    Operation("open, read, close (DELETE)", 100, _table("DELETE"), _read),
    Operation("open, read, close (WAL)", 50, _table("WAL"), _read),
    Operation("open, write, close (DELETE)", 50, _table("DELETE"), _write),
    Operation("open, write, close (WAL)", 50, _table("WAL"), _write),
    Operation("create a database (DELETE)", 20, _nothing, _create("DELETE")),
    Operation("create a database (WAL)", 20, _nothing, _create("WAL")),
    Operation("small write, cache of 5 (DELETE)", 10_000, _table("DELETE"), _small_writes),
    Operation("small write, cache of 5 (WAL)", 10_000, _table("WAL"), _small_writes),
    Operation("VACUUM of 20 MB (DELETE)", 1, _table("DELETE", _large, LARGE_ROW_BYTES), _vacuum),
    Operation("VACUUM of 20 MB (WAL)", 1, _table("WAL", _large, LARGE_ROW_BYTES), _vacuum),
    Operation("incremental_vacuum(1) (DELETE)", 100, _table("DELETE", 20_000), _incremental_vacuum),
    Operation("nested savepoints (DELETE)", 200, _table("DELETE", 500), _savepoints),
    Operation("nested savepoints (WAL)", 200, _table("WAL", 500), _savepoints),
    Operation("temporary table in a file", 20, _table("DELETE", 2_000), _temporary),
    Operation("backup of 200 kB", 10, _table("DELETE", 1_500), _copied),
)
