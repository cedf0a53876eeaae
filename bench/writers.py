"""The programs that write in a trial, seen from outside: started, watched and ended together.

They know nothing of each other (bench/trial_writer.py). What they have acknowledged is read from
their files while they go on.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable

from litemq.bench import accounts, trial_writer
from litemq.bench.accounts import Ack
from litemq.bench.cluster import LocalCluster
from litemq.bench.local_node import LocalNode
from litemq.errors import LiteMQError

FAILOVER_S = 30.0
_LOOK_S = 0.01
#: more than one writer ever uses
_NUMBERS = 1_000_000_000


def prepare(primary: LocalNode, database: str) -> None:
    """Make what they write to. Raises LiteMQError."""
    try:
        trial_writer.prepare(str(primary.database(database)))
    except sqlite3.Error as error:
        raise LiteMQError(f"{database} can't be made on {primary.name}: {error}") from error


class Writers:
    """One for each node of a cluster. One that a signal has killed is counted and started anew."""

    def __init__(self, cluster: LocalCluster, database: str, trial: int, rate: float) -> None:
        """Start them; `rate` is rows a second, at most."""
        self._cluster, self._database = cluster, database
        self._trial, self._rate = trial, rate
        self._files = {
            node.name: cluster.directory / f"acks-{trial}-{node.name}" for node in cluster.nodes
        }
        self.crashes = 0
        self._processes = {node.name: self._start(node) for node in cluster.nodes}

    def _start(self, node: LocalNode) -> subprocess.Popen[bytes]:
        return self._cluster.work(
            "trial_writer", path=node.database(self._database), node=node.name, trial=self._trial,
            rate=self._rate, acks=self._files[node.name], number=self.crashes * _NUMBERS,
        )  # fmt: skip

    def look(self) -> None:
        """Start those anew that were killed, as a mount that goes away can do (SIGBUS)."""
        for node in self._cluster.nodes:
            process = self._processes[node.name]
            if process.poll() is not None:
                self._count(self._cluster.end_of(process))
                self._processes[node.name] = self._start(node)

    def _count(self, code: int) -> None:
        if code > 0:
            raise LiteMQError(f"a writer ended with {code}")
        self.crashes += code < 0

    def acks(self) -> list[Ack]:
        """What has been acknowledged so far, all nodes."""
        return [ack for name, path in self._files.items() for ack in accounts.read_acks(path, name)]

    def first_elsewhere(self, old: str, since_ns: int) -> Ack | None:
        """The first row that another node has acknowledged after that moment."""
        others = [path for name, path in self._files.items() if name != old]
        if not any(path.exists() and path.stat().st_size for path in others):
            return None  # nearly always, and cheap
        return accounts.first_elsewhere(self.acks(), old, since_ns)

    def wait_rows(self, count: int) -> None:
        """Raises LiteMQError when they are not acknowledged in time."""
        self._wait(lambda: len(self.acks()) >= count, f"{count} rows were not acknowledged")

    def wait_elsewhere(self, old: str, since_ns: int) -> None:
        """Until another node has acknowledged a row. Raises LiteMQError when none does."""
        self._wait(
            lambda: self.first_elsewhere(old, since_ns) is not None, "no other node took a write"
        )

    def go_on(self, seconds: float) -> None:
        """Let them write."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.look()
            time.sleep(_LOOK_S)

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + FAILOVER_S
        while not reached():
            if time.monotonic() > deadline_s:
                raise LiteMQError(f"{what} within {FAILOVER_S:.0f} s")
            self.look()
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End them after the row they are at. Raises LiteMQError when one failed."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            self._count(self._cluster.end_of(process))
