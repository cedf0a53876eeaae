"""The benchmark: the mount with one replica attached against native SQLite on the same disk, in the
same run.

Runs alternate between the two, and every figure is a median over rounds with its spread; ratios are
taken within a round, so that a machine that changes its mind between rounds changes both sides. The
applications are processes of their own that use the standard library's sqlite3 (bench/workload.py).
"""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litemq.bench.cluster import LocalCluster
from litemq.errors import LiteMQError

#: name in the table, journal mode, synchronous
MODES = (
    ("WAL/NORMAL", "WAL", "NORMAL"),
    ("WAL/FULL", "WAL", "FULL"),
    ("DELETE/FULL", "DELETE", "FULL"),
)
READ_MODES = ("WAL", "DELETE")
ROW_BYTES = 100
BIG_ROWS = 1000
READ_ROWS = 10_000
VISIBLE_RATE = 50.0
NATIVE, MOUNT = "native", "mount"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds of everything, and seconds of every single run."""

    rounds: int
    seconds: float
    visible_seconds: float
    directory: Path | None
    write_back: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Medians, and the least and the greatest of what the rounds gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload on both sides; `ratio` is mount divided by native, so more is better."""

    name: str
    unit: str
    native: Figure
    mount: Figure
    ratio: Figure
    native_p50_us: float
    mount_p50_us: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one benchmark has found."""

    machine: dict[str, Any]
    plan: dict[str, Any]
    comparisons: list[Comparison]
    visible_ms: dict[str, float]
    pss_bytes: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """Start two nodes, measure, stop them. `say` gets a word on what is under way. Raises
    LiteMQError.
    """
    names = ["bench-a", "bench-b"]
    with LocalCluster(names, below=plan.directory, write_back=plan.write_back) as cluster:
        bench = _Bench(cluster, plan, say)
        comparisons = bench.compare()
        visible = bench.commit_to_visible()
        pss = {
            "primary": cluster.primary.pss_bytes(),
            "replica": cluster.replicas[0].pss_bytes(),
        }
    shown = {"rounds": plan.rounds, "seconds": plan.seconds, "write_back": plan.write_back}
    return Report(machine(), shown, comparisons, visible, pss)


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


class _Bench:
    """The workloads, and what they have given so far."""

    def __init__(self, cluster: LocalCluster, plan: Plan, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._plan = plan
        self._say = say
        self._native = cluster.directory / "native"
        self._native.mkdir()
        self._rates: dict[tuple[str, str], list[float]] = {}
        self._p50: dict[tuple[str, str], list[float]] = {}

    def compare(self) -> list[Comparison]:
        """All workloads, in rounds; sides alternate, and so does which comes first."""
        self._prepare_reads()
        for number in range(self._plan.rounds):
            sides = (NATIVE, MOUNT) if number % 2 == 0 else (MOUNT, NATIVE)
            for name, mode, synchronous in MODES:
                for side in sides:
                    self._inserts(name, mode, synchronous, side, number, rows=1)
            for side in sides:
                self._inserts("big transactions", "WAL", "NORMAL", side, number, rows=BIG_ROWS)
            for mode in READ_MODES:
                for side in sides:
                    self._reads(mode, side, number)
        big_mb = BIG_ROWS * ROW_BYTES / 1e6
        return [
            *(self._comparison(name, "tx/s") for name, _, _ in MODES),
            self._comparison("big transactions", "MB/s", big_mb),
            *(self._comparison(f"point reads {mode}", "reads/s") for mode in READ_MODES),
        ]

    def commit_to_visible(self) -> dict[str, float]:
        """From the begin of a one-row transaction on the primary until a reader on the replica sees
        it.
        """
        self._say("commit to visible")
        name = "visible.db"
        self._table(self._path(MOUNT, name), "WAL", rows=1)
        self._settle(name)
        seconds = self._plan.visible_seconds
        watcher = self._cluster.work(
            work="watch", path=self._cluster.replicas[0].database(name), seconds=seconds
        )
        writer = self._cluster.work(
            work="inserts", path=self._path(MOUNT, name), mode="WAL", synchronous="NORMAL",
            rate=VISIBLE_RATE, seconds=seconds,
        )  # fmt: skip
        self._cluster.result(writer)
        seen = self._cluster.result(watcher)
        if not seen["transactions"]:
            raise LiteMQError("the replica's reader saw nothing of what was committed")
        return {
            "p50": seen["p50_us"] / 1000,
            "p99": seen["p99_us"] / 1000,
            "samples": seen["transactions"],
        }

    # --- single runs

    def _inserts(
        self, label: str, mode: str, synchronous: str, side: str, number: int, *, rows: int
    ) -> None:
        self._say(f"round {number + 1} of {self._plan.rounds}: {label}, {side}")
        # a new file for every run: neither side inherits a larger one
        name = f"{label.replace('/', '-').replace(' ', '-')}-{number}.db"
        path = self._path(side, name)
        result = self._cluster.result(
            self._cluster.work(
                work="inserts",
                path=path,
                mode=mode,
                synchronous=synchronous,
                seconds=self._plan.seconds,
                row_bytes=ROW_BYTES,
                rows=rows,
            )
        )
        self._note(label, side, result)
        if side == MOUNT:
            self._settle(name)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)

    def _reads(self, mode: str, side: str, number: int) -> None:
        label = f"point reads {mode}"
        self._say(f"round {number + 1} of {self._plan.rounds}: {label}, {side}")
        path = self._path(side, f"reads-{mode}.db")
        result = self._cluster.result(
            self._cluster.work(work="reads", path=path, seconds=self._plan.seconds, rows=READ_ROWS)
        )
        self._note(label, side, result)

    def _note(self, label: str, side: str, result: dict[str, Any]) -> None:
        self._rates.setdefault((label, side), []).append(result["transactions"] / result["seconds"])
        self._p50.setdefault((label, side), []).append(result["p50_us"])

    def _comparison(self, label: str, unit: str, factor: float = 1.0) -> Comparison:
        native = [rate * factor for rate in self._rates[label, NATIVE]]
        mounted = [rate * factor for rate in self._rates[label, MOUNT]]
        return Comparison(
            name=label,
            unit=unit,
            native=Figure.of(native),
            mount=Figure.of(mounted),
            ratio=Figure.of([one / other for one, other in zip(mounted, native, strict=True)]),
            native_p50_us=statistics.median(self._p50[label, NATIVE]),
            mount_p50_us=statistics.median(self._p50[label, MOUNT]),
        )

    # --- files

    def _path(self, side: str, name: str) -> Path:
        return self._native / name if side == NATIVE else self._cluster.primary.database(name)

    def _prepare_reads(self) -> None:
        for mode in READ_MODES:
            for side in (NATIVE, MOUNT):
                self._table(self._path(side, f"reads-{mode}.db"), mode, rows=READ_ROWS)
            self._settle(f"reads-{mode}.db")

    def _table(self, path: Path, mode: str, *, rows: int) -> None:
        database = sqlite3.connect(path, isolation_level=None)
        try:
            database.execute(f"PRAGMA journal_mode={mode}")
            database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, began INTEGER, v)")
            database.execute("BEGIN")
            value = "v" * ROW_BYTES
            database.executemany("INSERT INTO t VALUES (?, 0, ?)", _rows(rows, value))
            database.execute("COMMIT")
        finally:
            database.close()

    def _settle(self, name: str) -> None:
        """Wait until the replica has everything, so that its work is not the next run's burden."""
        found = self._cluster.wait_equal(name, 60.0)
        if len(set(found.values())) != 1:
            raise LiteMQError(f"the replica did not catch up with {name}: {found}")


def _rows(count: int, value: str) -> Iterator[tuple[int, str]]:
    return ((number, value) for number in range(1, count + 1))


def table_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the comparison, for people."""
    head = ["WORKLOAD", "UNIT", "NATIVE", "MOUNT", "RATIO", "SPREAD", "P50 NATIVE", "P50 MOUNT"]
    rows = [
        [
            each.name,
            each.unit,
            f"{each.native.median:,.0f}"
            if each.native.median >= 100
            else f"{each.native.median:.1f}",
            f"{each.mount.median:,.0f}" if each.mount.median >= 100 else f"{each.mount.median:.1f}",
            f"{each.ratio.median:.3f}",
            f"{each.ratio.low:.3f}-{each.ratio.high:.3f}",
            f"{each.native_p50_us:,.0f} us",
            f"{each.mount_p50_us:,.0f} us",
        ]
        for each in report.comparisons
    ]
    return head, rows
