"""What programs do beside committing, in the mount and natively on the same disk, side by side.

Each round does every operation on both sides; sides alternate, and ratios are taken within a round.
Where the kernel's tracing is there, an operation's FUSE calls are counted in a run of their own.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litemq.bench import calls
from litemq.bench.cluster import LocalCluster
from litemq.bench.everyday_work import OPERATIONS, Operation
from litemq.bench.measure import MOUNT, NATIVE, Figure
from litemq.errors import LiteMQError
from litemq.fs import mount

EQUAL_S = 60.0


@dataclass(frozen=True, slots=True)
class EverydayPlan:
    rounds: int
    directory: Path | None
    write_back: bool = False
    operations: Sequence[Operation] = OPERATIONS


@dataclass(frozen=True, slots=True)
class Slowdown:
    """One operation, once: milliseconds on both sides, and the mount's divided by native."""

    name: str
    native_ms: Figure
    mount_ms: Figure
    ratio: Figure
    calls: dict[str, float]
    """FUSE calls by kind; empty where they can't be counted."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(plan: EverydayPlan, say: Callable[[str], None]) -> list[Slowdown]:
    """A primary with a replica. Raises LiteMQError."""
    names = ["everyday-a", "everyday-b"]
    with LocalCluster(names, below=plan.directory, write_back=plan.write_back) as cluster:
        bench = _Everyday(cluster, plan.operations, say)
        try:
            for number in range(plan.rounds):
                bench.round(number)
            if not calls.unavailable():
                bench.count()
        except sqlite3.Error as error:
            raise LiteMQError(f"the program failed: {error}") from error
        return bench.found()


class _Everyday:
    def __init__(
        self,
        cluster: LocalCluster,
        operations: Sequence[Operation],
        say: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._operations = operations
        self._say = say
        self._native = cluster.directory / "native"
        self._native.mkdir()
        self._taken_ms: dict[tuple[str, str], list[float]] = {}
        self._calls: dict[str, dict[str, float]] = {}

    def round(self, number: int) -> None:
        sides = (NATIVE, MOUNT) if number % 2 == 0 else (MOUNT, NATIVE)
        for operation in self._operations:
            for side in sides:
                self._say(f"round {number + 1}: {operation.name}, {side}")
                taken_s = self._run(operation, side)
                taken_ms = taken_s * 1000 / operation.times
                self._taken_ms.setdefault((operation.name, side), []).append(taken_ms)

    def count(self) -> None:
        """FUSE calls of every operation."""
        entry = mount.find_mount(str(self._cluster.primary.mount))
        assert entry is not None
        for operation in self._operations:
            self._say(f"calls: {operation.name}")
            sent: dict[str, int] = {}
            self._run(operation, MOUNT, around=calls.counted(entry.minor, sent))
            self._calls[operation.name] = {
                kind: number / operation.times for kind, number in sorted(sent.items())
            }

    def found(self) -> list[Slowdown]:
        return [self._slowdown(operation.name) for operation in self._operations]

    def _slowdown(self, name: str) -> Slowdown:
        native, mounted = self._taken_ms[name, NATIVE], self._taken_ms[name, MOUNT]
        ratios = [one / other for one, other in zip(mounted, native, strict=True)]
        return Slowdown(
            name,
            Figure.of(native),
            Figure.of(mounted),
            Figure.of(ratios),
            self._calls.get(name, {}),
        )

    def _run(
        self, operation: Operation, side: str, *, around: AbstractContextManager[None] | None = None
    ) -> float:
        """How long it took (seconds). The files are gone afterwards, and the replica knows it."""
        name = re.sub(r"[^a-z0-9_]+", "-", operation.name.lower()).strip("-") + ".db"
        path = self._native / name if side == NATIVE else self._cluster.primary.database(name)
        operation.prepare(path)
        self._settle(side)
        with around or nullcontext():
            began_s = time.monotonic()
            operation.work(path, operation.times)
            taken_s = time.monotonic() - began_s
        self._settle(side)
        for each in path.parent.glob(f"{name}*"):
            each.unlink(missing_ok=True)
        return taken_s

    def _settle(self, side: str) -> None:
        """The replica's work is not to be the next run's burden."""
        if side == NATIVE:
            return
        for path in sorted(self._cluster.primary.mount.glob("*.db")):
            found = self._cluster.wait_equal(path.name, EQUAL_S)
            if len(set(found.values())) != 1:
                raise LiteMQError(f"the replica did not catch up with {path.name}: {found}")


def table_rows(found: list[Slowdown]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows for people."""
    rows = []
    for each in found:
        kinds = sorted(each.calls.items(), key=lambda kind: -kind[1])
        words = ", ".join(
            f"{name.lower()} {number:.3g}" for name, number in kinds if number >= 0.05
        )
        rows.append(
            [
                each.name,
                f"{each.native_ms.median:.3g} ms",
                f"{each.mount_ms.median:.3g} ms",
                f"{each.ratio.median:.1f}",
                f"{each.ratio.low:.1f}-{each.ratio.high:.1f}",
                f"{sum(each.calls.values()):.3g}" if each.calls else "-",
                words,
            ]
        )
    return ["OPERATION", "NATIVE", "MOUNT", "TIMES", "SPREAD", "CALLS", "OF THESE"], rows
