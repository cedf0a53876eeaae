"""One huge database: how long everything takes with it, and how much memory the actors need.

The same is done to a native database on the same disk, each step right before the one in the
mount. Owns nothing but its directory. Always true: both nodes have the same checksum after every
step; if not, that is an error.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litemq.bench import usage
from litemq.bench.cluster import LocalCluster
from litemq.bench.local_node import LocalNode
from litemq.errors import LiteMQError

DATABASE = "huge.db"
#: much of a row repeats itself, as in other databases
ROW_BYTES = 100_000
NOISE_BYTES = 20_000
#: part of the rows that one transaction changes, and small ones after that
CHANGED = 0.05
COMMITS = 500
#: what is free on the disk must be so many times the size
ROOM = 5
EQUAL_S = 3600.0


@dataclass(frozen=True, slots=True)
class HugePlan:
    gibibytes: float
    directory: Path | None
    write_back: bool = False

    @property
    def rows(self) -> int:
        return max(1, int(self.gibibytes * (1 << 30)) // ROW_BYTES)


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds until it was done natively, in the mount, and, from its begin, on the replica."""

    name: str
    native_s: float
    mount_s: float
    replica_s: float


@dataclass(frozen=True, slots=True)
class HugeReport:
    """All steps, and the most memory that each actor of each node has had (bytes)."""

    plan: dict[str, Any]
    database_bytes: int
    steps: list[Step]
    ready_s: float
    peak_bytes: dict[str, dict[str, int]]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(plan: HugePlan, say: Callable[[str], None]) -> HugeReport:
    """A primary and a replica, both with a mount. Raises LiteMQError."""
    names = ["huge-a", "huge-b"]
    with LocalCluster(names, below=plan.directory, write_back=plan.write_back) as cluster:
        needed = int(plan.gibibytes * (1 << 30)) * ROOM
        if shutil.disk_usage(cluster.directory).free < needed:
            raise LiteMQError(f"{cluster.directory} has no {needed >> 30} GiB free")
        bench = _Huge(cluster, plan, say)
        try:
            return bench.run()
        except sqlite3.Error as error:
            raise LiteMQError(f"the program failed: {error}") from error


class _Huge:
    def __init__(self, cluster: LocalCluster, plan: HugePlan, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._say = say
        self._native = cluster.directory / DATABASE
        self._mounted = cluster.primary.database(DATABASE)
        self._steps: list[Step] = []
        self._peaks: dict[str, dict[str, int]] = {}

    def run(self) -> HugeReport:
        rows = self._plan.rows
        grow = (
            "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT ?) INSERT INTO "
            f"t(v) SELECT randomblob({NOISE_BYTES}) || zeroblob({ROW_BYTES - NOISE_BYTES}) FROM c"
        )
        self._step("one transaction, DELETE", lambda path: _once(path, "DELETE", grow, rows))
        change = f"UPDATE t SET v = randomblob({ROW_BYTES}) WHERE id <= ?"
        changed = max(1, int(rows * CHANGED))
        self._step(
            f"{CHANGED:.0%} changed by one, WAL", lambda path: _once(path, "WAL", change, changed)
        )
        self._step(f"{COMMITS} commits, WAL", _commits)
        size = self._native.stat().st_size
        ready_s = self._restart()
        self._mounted.unlink()
        self._wait_equal()
        self._step("copied in", self._copy)
        self._note_peaks()
        plan = {"gibibytes": self._plan.gibibytes, "write_back": self._plan.write_back}
        return HugeReport(plan, size, self._steps, ready_s, self._peaks)

    def _step(self, name: str, work: Callable[[Path], None]) -> None:
        taken = []
        for path in (self._native, self._mounted):
            self._say(f"{name}, {'native' if path == self._native else 'mount'}")
            begin_s = time.monotonic()
            work(path)
            taken.append(time.monotonic() - begin_s)
        self._say(f"{name}, replica")
        self._wait_equal()
        native_s, mount_s = taken
        self._steps.append(Step(name, native_s, mount_s, time.monotonic() - begin_s))

    def _copy(self, path: Path) -> None:
        if path != self._native:
            shutil.copyfile(self._native, path)
            return
        copy = path.with_suffix(".copy")
        shutil.copyfile(path, copy)
        copy.unlink()

    def _restart(self) -> float:
        """How long the primary takes until it is ready again after a clean stop."""
        primary = self._cluster.primary
        self._note_peaks()
        if primary.stop():
            raise LiteMQError("the primary did not end well")
        begin_s = time.monotonic()
        primary.start()
        primary.wait_ready()
        return time.monotonic() - begin_s

    def _wait_equal(self) -> None:
        positions = self._cluster.wait_equal(DATABASE, EQUAL_S)
        if len(set(positions.values())) != 1:
            raise LiteMQError(f"the nodes did not become equal: {positions}")

    def _note_peaks(self) -> None:
        for node in self._cluster.nodes:
            known = self._peaks.setdefault(node.name, {})
            for actor, peak in _peaks(node).items():
                known[actor] = max(known.get(actor, 0), peak)


def _peaks(node: LocalNode) -> dict[str, int]:
    status = node.status()
    actors = [] if status is None else status.actors
    return {each.name: usage.peak_bytes(each.pid) for each in actors if each.pid}


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v)")
    return database


def _once(path: Path, mode: str, statement: str, value: int) -> None:
    with closing(_connect(path, mode)) as database:
        database.execute(statement, (value,))


def _commits(path: Path) -> None:
    with closing(_connect(path, "WAL")) as database:
        for _ in range(COMMITS):
            database.execute("INSERT INTO t(v) VALUES (hex(randomblob(50)))")


def table_rows(report: HugeReport) -> tuple[list[str], list[list[str]]]:
    """Heading and rows for people."""
    rows = [
        [each.name, *(f"{taken:.1f} s" for taken in (each.native_s, each.mount_s, each.replica_s))]
        for each in report.steps
    ]
    return ["STEP", "NATIVE", "MOUNT", "ON THE REPLICA"], rows


def words(report: HugeReport) -> list[str]:
    """What is not in the table."""
    size = report.database_bytes / (1 << 30)
    lines = [f"database of {size:.2f} GiB; ready {report.ready_s:.1f} s after a clean stop"]
    for node, peaks in report.peak_bytes.items():
        each = ", ".join(f"{actor} {peak / (1 << 20):.0f}" for actor, peak in peaks.items())
        lines.append(f"most memory (resident) on {node}: {each} MiB")
    return lines
