"""How many FUSE calls a commit costs: what the kernel asked of the primary's mount, by kind.

Counted by the kernel's own tracing (tracefs, event fuse_request_send), in an instance of ours, so
that nobody else's tracing is disturbed; needs root. Always true: the instance is gone afterwards.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litemq.bench.cluster import LocalCluster
from litemq.fs import mount

TRACEFS = Path("/sys/kernel/tracing")
MODES = (
    ("WAL", "NORMAL"),
    ("WAL", "FULL"),
    ("DELETE", "FULL"),
    ("DELETE", "NORMAL"),
    ("TRUNCATE", "FULL"),
    ("PERSIST", "FULL"),
    ("MEMORY", "FULL"),
)
#: one row each
COMMITS = 50
BUFFER_KIB = 4096
_SENT = re.compile(r" fuse_request_send: .*\(FUSE_(\w+)\)")


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls a commit in one mode, by their names in the FUSE protocol."""

    mode: str
    calls: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def unavailable() -> str:
    """Why calls can't be counted here; "" if they can."""
    if os.geteuid() != 0:
        return "counting FUSE calls needs root"
    if not (TRACEFS / "events/fuse/fuse_request_send").exists():
        return f"the kernel does not trace FUSE calls in {TRACEFS}"
    return ""


def count(
    directory: Path | None, say: Callable[[str], None], *, write_back: bool = False
) -> list[Calls]:
    """One-row commits of 100 bytes on a primary with one replica. Raises LiteMQError, OSError."""
    names = ["calls-a", "calls-b"]
    with LocalCluster(names, below=directory, write_back=write_back) as cluster:
        found = []
        for journal, synchronous in MODES:
            mode = f"{journal}/{synchronous}"
            say(f"calls {mode}")
            found.append(Calls(mode, _count_in(cluster.primary.mount, journal, synchronous)))
        return found


def _count_in(directory: Path, journal: str, synchronous: str) -> dict[str, float]:
    entry = mount.find_mount(str(directory))
    assert entry is not None
    path = directory / f"{journal}-{synchronous}.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
        database.execute(f"PRAGMA synchronous={synchronous}")
        database.execute("CREATE TABLE t (x)")
        insert = "INSERT INTO t VALUES (hex(randomblob(50)))"
        for _ in range(COMMITS):
            database.execute(insert)
        sent: dict[str, int] = {}
        with counted(entry.minor, sent):
            for _ in range(COMMITS):
                database.execute(insert)
    return {kind: number / COMMITS for kind, number in sorted(sent.items())}


@contextlib.contextmanager
def counted(connection: int, sent: dict[str, int]) -> Iterator[None]:
    """Put into `sent` how many calls of each kind the kernel makes meanwhile."""
    with _traced(connection) as trace:
        yield
        sent.update(collections.Counter(_SENT.findall(trace.read_text())))


@contextlib.contextmanager
def _traced(connection: int) -> Iterator[Path]:
    """The kernel's trace of what it asks of one FUSE connection."""
    instance = TRACEFS / "instances" / f"litemq-{os.getpid()}"
    instance.mkdir()
    event = instance / "events/fuse/fuse_request_send"
    try:
        (instance / "buffer_size_kb").write_text(str(BUFFER_KIB))
        (event / "filter").write_text(f"connection == {connection}")
        (event / "enable").write_text("1")
        yield instance / "trace"
    finally:
        (event / "enable").write_text("0")
        instance.rmdir()


def table_rows(found: list[Calls]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows for people."""
    rows = []
    for each in found:
        kinds = sorted(each.calls.items(), key=lambda kind: -kind[1])
        words = ", ".join(
            f"{name.lower()} {number:.3g}" for name, number in kinds if number >= 0.05
        )
        rows.append([each.mode, f"{sum(each.calls.values()):.3g}", words])
    return ["MODE", "CALLS A COMMIT", "OF THESE"], rows
