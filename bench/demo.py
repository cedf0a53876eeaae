"""The demonstration: three nodes, programs that write, a table that lives, and a primary that dies.

Prints through the caller. Always true: it ends with a comparison of all nodes after everything has
been drained, and with an account of every acknowledged row; and it leaves no mount, no process and
no file.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from litemq.bench import accounts, writers
from litemq.bench.accounts import Account, Ack
from litemq.bench.cluster import LocalCluster, by_file
from litemq.bench.local_node import LocalNode
from litemq.bench.trial_writer import TABLE
from litemq.bench.writers import Writers
from litemq.errors import NotReadyError

DATABASE = "demo.db"
NODES = ("node-1", "node-2", "node-3")
RATE = 500.0
REFRESH_S = 0.5
DRAIN_S = 30.0
#: the primary is killed after as long, and started again after as long again, if nobody says how
#: long all of it is to take; else after a half, and after another quarter
KILL_S = 5.0
BACK_S = 3.0
DEAD, STARTING = "dead", "starting"
_TRIAL = 1


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
    primary: str
    account: Account

    @property
    def equal(self) -> bool:
        states = {(row.txid, row.checksum, row.rows) for row in self.rows}
        return len(states) == 1 and self.rows[0].rows > 0


class Demo:
    """One run."""

    def __init__(self, *, seconds: float | None, say: Callable[[str], None], show: Show) -> None:
        self._say = say
        self._show = show
        self._stopped = False
        self._length_s = float("inf") if seconds is None else seconds
        self._kill_s = KILL_S if seconds is None else seconds / 2
        self._back_s = BACK_S if seconds is None else seconds / 4

    def run(self) -> Outcome:
        """Until Ctrl-C, SIGTERM, or as long as told. Raises LiteMQError when a node fails."""
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._say("starting three nodes, which elect their primary")
            with LocalCluster(NODES, election=by_file) as cluster:
                return self._run(cluster)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True

    def _run(self, cluster: LocalCluster) -> Outcome:
        primary = cluster.wait_primary()
        writers.prepare(primary, DATABASE)
        self._say(f"{primary.name} is primary; {RATE:.0f} rows a second are written there")
        self._say("look into any of them:")
        for node in cluster.nodes:
            self._say(f"  sqlite3 {node.database(DATABASE)} 'SELECT count(*) FROM {TABLE}'")
        programs = Writers(cluster, DATABASE, _TRIAL, RATE)
        programs.wait_rows(1)  # also at an early Ctrl-C, or there would be nothing to compare
        failover = _Failover(cluster, programs, self._say)
        begin_s = shown_s = time.monotonic()
        shown_rows = 0
        while not self._stopped and (past_s := time.monotonic() - begin_s) < self._length_s:
            programs.look()
            if past_s >= self._kill_s:
                failover.begin()
            if past_s >= self._kill_s + self._back_s:
                failover.end()
            failover.look()
            now = time.monotonic()
            if now - shown_s >= REFRESH_S:
                rows = [_look(node) for node in cluster.nodes]
                count = max(row.rows for row in rows)
                self._show(rows, max(0, count - shown_rows) / (now - shown_s))
                shown_s, shown_rows = now, count
            for node in cluster.nodes:
                node.check()
            time.sleep(0.02)
        failover.finish()
        self._say("stopping the writers; waiting until all nodes have everything")
        programs.stop()
        return _outcome(cluster, programs.acks(), failover)


class _Failover:
    """The death of the primary, once, and its return."""

    def __init__(
        self, cluster: LocalCluster, programs: Writers, say: Callable[[str], None]
    ) -> None:
        self._cluster, self._programs, self._say = cluster, programs, say
        self.killed: LocalNode | None = None
        self.first: Ack | None = None
        self._killed_ns = 0

    def begin(self) -> None:
        """Kill whoever is primary; nothing the second time."""
        if self.killed is not None:
            return
        try:
            self.killed = self._cluster.primary
        except NotReadyError:
            return  # a moment later there will be one
        self._killed_ns = time.monotonic_ns()
        self.killed.kill()

    def look(self) -> None:
        """Tell who took over, once."""
        if self.killed is None or self.first is not None:
            return
        self.first = self._programs.first_elsewhere(self.killed.name, self._killed_ns)
        if self.first is not None:
            after_ms = (self.first.told_ns - self._killed_ns) / 1e6
            self._say(
                f"killed {self.killed.name}; {self.first.node} is primary after {after_ms:.0f} ms "
                "(its first row)"
            )

    def end(self) -> None:
        """Start it again; nothing the second time, or before another took over."""
        if self.killed is not None and self.first is not None and not self.killed.running:
            self.killed.start()
            self._say(f"{self.killed.name} is started again, and follows")

    def finish(self) -> None:
        """Whatever has begun comes to its end. Raises LiteMQError when it does not."""
        if self.killed is None:
            self._say("stopped before the primary was to be killed: no failover this time")
            return
        self._programs.wait_elsewhere(self.killed.name, self._killed_ns)
        self.look()
        self.end()
        self.killed.wait_ready(role="replica")


def _outcome(cluster: LocalCluster, acks: list[Ack], failover: _Failover) -> Outcome:
    positions = cluster.wait_equal(DATABASE, DRAIN_S)
    primary = cluster.wait_primary()
    rows = []
    for node in cluster.nodes:
        position = positions[node.name]
        rows.append(
            Row(
                node=node.name,
                role="primary" if node is primary else "replica",
                txid=0 if position is None else position.txid,
                checksum="-" if position is None else f"{position.checksum:016x}",
                lag_ms=0,
                rows=_count(node, "count(*)"),
            )
        )
    present = accounts.rows_in(primary.database(DATABASE), _TRIAL)
    kept = accounts.diverged_rows(cluster.nodes, DATABASE, _TRIAL, set())
    old = "" if failover.killed is None else failover.killed.name
    return Outcome(rows, primary.name, accounts.settle(acks, present, kept, failover.first, old))


def _look(node: LocalNode) -> Row:
    if not node.running:
        return Row(node.name, DEAD, 0, "-", 0, 0)
    status = node.status()
    if status is None or not status.ready:
        return Row(node.name, STARTING, 0, "-", 0, 0)
    position = node.position(DATABASE)
    return Row(
        node=node.name,
        role=status.role,
        txid=0 if position is None else position.txid,
        checksum="-" if position is None else f"{position.checksum:016x}",
        lag_ms=max((each.lag_ms for each in status.databases), default=0),
        rows=_count(node, "max(id)"),
    )


def _count(node: LocalNode, what: str) -> int:
    """Rows as an application on that node sees them; 0 as long as it can't look."""
    try:
        uri = f"file:{node.database(DATABASE)}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as database:
            (found,) = database.execute(f"SELECT {what} FROM {TABLE}").fetchone()
    except sqlite3.Error:
        return 0
    return int(found or 0)
