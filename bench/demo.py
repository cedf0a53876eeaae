"""The demonstration: a primary, two replicas, a program that writes, and a table that lives.

Prints through the caller. Always true: it ends with a comparison of all nodes after everything has
been drained, and leaves no mount, no process and no file.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from litemq.bench.cluster import LocalCluster, LocalNode
from litemq.errors import NotReadyError

DATABASE = "demo.db"
RATE = 500.0
REFRESH_S = 0.5
DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Row:
    """What the table shows of one node."""

    node: str
    role: str
    txid: int
    checksum: str
    lag_ms: int
    rows: int


#: the table and the rows a second since the one before
Show = Callable[[list[Row], float], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How every node ended; `equal` when TXID, checksum and rows are the same everywhere."""

    rows: list[Row]

    @property
    def equal(self) -> bool:
        states = {(row.txid, row.checksum, row.rows) for row in self.rows}
        return len(states) == 1 and self.rows[0].rows > 0


class Demo:
    """One run."""

    def __init__(self, *, seconds: float | None, say: Callable[[str], None], show: Show) -> None:
        self._seconds = seconds
        self._say = say
        self._show = show
        self._stopped = False

    def run(self) -> Outcome:
        """Until Ctrl-C, SIGTERM, or as long as told. Raises LiteMQError when a node fails."""
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._say("starting one primary and two replicas")
            with LocalCluster(["primary", "replica-1", "replica-2"]) as cluster:
                return self._run(cluster)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True

    def _run(self, cluster: LocalCluster) -> Outcome:
        path = cluster.primary.database(DATABASE)
        self._say(
            f"a program writes {RATE:.0f} rows a second to {path}; look into the others, too:"
        )
        for node in cluster.replicas:
            self._say(f"  sqlite3 {node.database(DATABASE)} 'SELECT count(*) FROM t'")
        writer = cluster.work(
            work="inserts", path=path, mode="WAL", synchronous="NORMAL", rate=RATE
        )
        end_s = time.monotonic() + (float("inf") if self._seconds is None else self._seconds)
        shown_s, shown_rows = time.monotonic(), 0
        while not self._stopped and (now := time.monotonic()) < end_s:
            if now - shown_s >= REFRESH_S:
                rows = [_look(node) for node in cluster.nodes]
                self._show(rows, (rows[0].rows - shown_rows) / (now - shown_s))
                shown_s, shown_rows = now, rows[0].rows
            for node in cluster.nodes:
                node.check()
            time.sleep(min(0.05, max(0.0, end_s - now)))
        self._say("stopping the writer; waiting until all nodes have everything")
        writer.terminate()
        cluster.result(writer)
        return _outcome(cluster)


def _outcome(cluster: LocalCluster) -> Outcome:
    positions = cluster.wait_equal(DATABASE, DRAIN_S)
    rows = []
    for node in cluster.nodes:
        position = positions[node.name]
        rows.append(
            Row(
                node=node.name,
                role="primary" if node is cluster.primary else "replica",
                txid=0 if position is None else position.txid,
                checksum="-" if position is None else f"{position.checksum:016x}",
                lag_ms=0,
                rows=_count(node, "count(*)"),
            )
        )
    return Outcome(rows)


def _look(node: LocalNode) -> Row:
    position = node.position(DATABASE)
    lag_ms = 0
    role = "?"
    try:
        status = node.client.status(1.0)
    except NotReadyError:
        pass
    else:
        role = status.role
        lag_ms = max((each.lag_ms for each in status.databases), default=0)
    return Row(
        node=node.name,
        role=role,
        txid=0 if position is None else position.txid,
        checksum="-" if position is None else f"{position.checksum:016x}",
        lag_ms=lag_ms,
        rows=_count(node, "max(id)"),
    )


def _count(node: LocalNode, what: str) -> int:
    """Rows as an application on that node sees them; 0 as long as there is no table."""
    try:
        database = sqlite3.connect(f"file:{node.database(DATABASE)}?mode=ro", uri=True, timeout=5.0)
    except sqlite3.OperationalError:
        return 0
    try:
        (found,) = database.execute(f"SELECT {what} FROM t").fetchone()
        return int(found or 0)
    except sqlite3.OperationalError:
        return 0
    finally:
        database.close()
