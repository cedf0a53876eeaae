"""The applications of a benchmark: processes that use SQLite and know nothing of LiteMQ.

Run as `python -m litemq.bench.workload '{"work": "inserts", "path": ...}'`; one JSON object comes
back on stdout. Uses the standard library only. Always true: SIGTERM ends the work after the current
transaction, and the result is still printed.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUSY_TIMEOUT_S = 30.0
WARM_UP = 20
POLL_S = 0.0002

_stopping = False


def _stop(_number: int, _frame: object) -> None:
    global _stopping
    _stopping = True


def _connect(path: str, mode: str = "", synchronous: str = "") -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    if mode:
        (got,) = database.execute(f"PRAGMA journal_mode={mode}").fetchone()
        if got != mode.lower():
            raise sqlite3.OperationalError(f"journal mode {got} instead of {mode}")
    if synchronous:
        database.execute(f"PRAGMA synchronous={synchronous}")
    return database


def inserts(
    path: str,
    mode: str,
    synchronous: str,
    seconds: float = float("inf"),
    row_bytes: int = 100,
    rows: int = 1,
    rate: float = 0.0,
    tell_times: str = "",
) -> dict[str, Any]:
    """Insert `rows` rows a transaction, as fast as it goes or `rate` transactions a second.

    Each row holds the moment at which its transaction began. The file `tell_times` gets the
    moment at which each was acknowledged: nanoseconds on the monotonic clock, one a line.
    """
    database = _connect(path, mode, synchronous)
    database.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, began INTEGER, v)")
    insert = "INSERT INTO t (began, v) VALUES (?, ?)"
    value = random.randbytes(row_bytes // 2).hex()
    execute, executemany, clock = database.execute, database.executemany, time.monotonic_ns

    def transaction() -> None:
        if rows == 1:
            execute(insert, (clock(), value))
            return
        execute("BEGIN")
        executemany(insert, ((clock(), value) for _ in range(rows)))
        execute("COMMIT")

    if not rate:
        for _ in range(WARM_UP if rows == 1 else 1):
            transaction()
    measured = seconds != float("inf")
    taken: list[int] = []
    told: list[int] = []
    count = 0
    begin = clock()
    end = begin + int(min(seconds, 1e6) * 1e9)
    while (started := clock()) < end and not _stopping:
        transaction()
        finished = clock()
        count += 1
        if measured:
            taken.append(finished - started)
        if tell_times:
            told.append(finished)
        if rate:
            time.sleep(max(0.0, (begin - finished) / 1e9 + count / rate))
    elapsed_s = (clock() - begin) / 1e9
    (total,) = database.execute("SELECT count(*) FROM t").fetchone()
    database.close()
    result = {"transactions": count, "seconds": elapsed_s, "rows": total, **_quantiles(taken)}
    if tell_times:
        Path(tell_times).write_text("".join(f"{each}\n" for each in told))
    return result


def reads(path: str, seconds: float, rows: int) -> dict[str, Any]:
    """Read rows at random, each in a transaction of its own."""
    database = _connect(path)
    select = "SELECT v FROM t WHERE id = ?"
    wanted = [random.randint(1, rows) for _ in range(4096)]
    for number in wanted[:WARM_UP]:
        assert database.execute(select, (number,)).fetchone()
    taken: list[int] = []
    clock, execute = time.monotonic_ns, database.execute
    begin = clock()
    end = begin + int(seconds * 1e9)
    started = begin
    while started < end and not _stopping:
        for number in wanted[:64]:
            execute(select, (number,)).fetchone()
        finished = clock()
        taken.append((finished - started) // 64)
        started = finished
        wanted = wanted[64:] + wanted[:64]
    elapsed_s = (clock() - begin) / 1e9
    database.close()
    return {"transactions": 64 * len(taken), "seconds": elapsed_s, **_quantiles(taken)}


def watch(path: str, seconds: float) -> dict[str, Any]:
    """Look for new rows as a reader does; how old the newest one is when it is seen first."""
    database = _connect(path)
    newest = "SELECT id, began FROM t ORDER BY id DESC LIMIT 1"
    seen, _ = database.execute(newest).fetchone() or (0, 0)
    taken: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and not _stopping:
        row = database.execute(newest).fetchone()
        if row is not None and row[0] > seen:
            seen = row[0]
            taken.append(time.monotonic_ns() - row[1])
        time.sleep(POLL_S)
    database.close()
    return {"transactions": len(taken), "seconds": seconds, **_quantiles(taken)}


def _quantiles(taken_ns: list[int]) -> dict[str, float]:
    if not taken_ns:
        return {"p50_us": 0.0, "p99_us": 0.0}
    ordered = sorted(taken_ns)
    return {
        "p50_us": ordered[len(ordered) // 2] / 1000,
        "p99_us": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1000,
    }


WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "inserts": inserts,
    "reads": reads,
    "watch": watch,
}


def main() -> int:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.loads(sys.argv[1])
    try:
        result = WORK[asked.pop("work")](**asked)
    except sqlite3.Error as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
