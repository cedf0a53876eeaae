"""Failover trials: a primary is struck while programs write, and every row is accounted for.

One trial at a time on one cluster of three. Before the next one the struck node has come back, and
all nodes are equal. Always true: what went wrong is in the result, and the files of the nodes are
kept then.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from litemq.bench import accounts, trial_writer
from litemq.bench.accounts import Account, Ack
from litemq.bench.cluster import LocalCluster
from litemq.bench.local_node import LocalNode
from litemq.bench.scenarios import Scenario
from litemq.errors import LiteMQError

DATABASE = "trials.db"
NODES = ("node-1", "node-2", "node-3")
RATE = 500.0
#: rows that must have been acknowledged before anything happens
ROWS_BEFORE = 50
#: nothing is struck at a fixed moment between two renewals of the lease
SCATTER_S = 0.5
#: writing goes on for as long after the first row elsewhere, and after the return
AFTER_S = 0.3
FAILOVER_S = 30.0
EQUAL_S = 30.0
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Trial:
    """One. `after_ms` counts from the stroke to the first row elsewhere, `pause_ms` to that row
    from the last one before it. `wrong` is what else went wrong, or empty.
    """

    after_ms: float
    pause_ms: float
    account: Account
    wrong: str

    @property
    def right(self) -> bool:
        return self.account.right and not self.wrong


class Writers:
    """One for each node of a cluster, for the time of one trial."""

    def __init__(self, cluster: LocalCluster, database: str, trial: int) -> None:
        self._cluster = cluster
        self._files = {
            node.name: cluster.directory / f"acks-{trial}-{node.name}" for node in cluster.nodes
        }
        self._processes = [
            cluster.work(
                "trial_writer", path=node.database(database), node=node.name, trial=trial,
                rate=RATE, acks=self._files[node.name],
            )
            for node in cluster.nodes
        ]  # fmt: skip

    def acks(self) -> list[Ack]:
        """What has been acknowledged so far, all nodes."""
        return [
            ack for name, path in self._files.items() for ack in accounts.read_acks(path, name)
        ]

    def wait_rows(self, count: int) -> None:
        """Raises LiteMQError when they are not acknowledged in time."""
        _wait(lambda: len(self.acks()) >= count, FAILOVER_S, f"{count} rows were not acknowledged")

    def wait_elsewhere(self, old: str, since_ns: int) -> None:
        """Until another node has acknowledged a row. Raises LiteMQError when none does."""
        others = [path for name, path in self._files.items() if name != old]
        _wait(
            lambda: (
                any(path.exists() and path.stat().st_size for path in others)
                and accounts.first_elsewhere(self.acks(), old, since_ns) is not None
            ),
            FAILOVER_S,
            "no other node took a write",
        )

    def stop(self) -> None:
        """End them after the row they are at. Raises LiteMQError when one failed."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            self._cluster.result(process)


def prepare(cluster: LocalCluster) -> None:
    """Make the database on the primary. Raises LiteMQError."""
    try:
        trial_writer.prepare(str(cluster.wait_primary().database(DATABASE)))
    except sqlite3.Error as error:
        raise LiteMQError(f"{DATABASE} can't be made: {error}") from error
    _wait_equal(cluster)


class Trials:
    """The trials of one cluster, which has the database."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._number = 0
        self._known: set[str] = set()

    def run(self, scenario: Scenario) -> Trial:
        """One. Raises LiteMQError when it has not come to its end; then the cluster is of no use
        any more, and its files are kept.
        """
        self._number += 1
        try:
            trial = self._run(scenario, self._number)
        except BaseException:
            self._cluster.keep_files = True
            raise
        if not trial.right:
            self._cluster.keep_files = True
        return trial

    def _run(self, scenario: Scenario, number: int) -> Trial:
        cluster = self._cluster
        writers = Writers(cluster, DATABASE, number)
        writers.wait_rows(ROWS_BEFORE)
        time.sleep(random.uniform(0.0, SCATTER_S))
        old = cluster.wait_primary()
        struck_ns = time.monotonic_ns()
        scenario.strike(old)
        writers.wait_elsewhere(old.name, struck_ns)
        time.sleep(AFTER_S)
        scenario.undo(old)
        old.wait_ready(role="replica")
        time.sleep(AFTER_S)
        writers.stop()
        wrong = _wait_equal(cluster)
        return self._account(writers.acks(), number, old, struck_ns, wrong)

    def _account(
        self, acks: list[Ack], number: int, old: LocalNode, struck_ns: int, wrong: str
    ) -> Trial:
        cluster = self._cluster
        present = accounts.rows_in(cluster.primary.database(DATABASE), number)
        for node in cluster.replicas:
            if not wrong and accounts.rows_in(node.database(DATABASE), number) != present:
                wrong = f"{node.name} has other rows than {cluster.primary.name}"
        kept = accounts.diverged_rows(cluster.nodes, DATABASE, number, self._known)
        first = accounts.first_elsewhere(acks, old.name, struck_ns)
        assert first is not None
        last = accounts.last_before(acks, old.name, first.told_ns)
        assert last is not None
        return Trial(
            after_ms=(first.told_ns - struck_ns) / 1e6,
            pause_ms=(first.told_ns - last.told_ns) / 1e6,
            account=accounts.settle(acks, present, kept, first, old.name),
            wrong=wrong,
        )


def _wait_equal(cluster: LocalCluster) -> str:
    """Empty when they are, else how they differ."""
    found = cluster.wait_equal(DATABASE, EQUAL_S)
    if len(set(found.values())) == 1:
        return ""
    texts = [f"{name} {'-' if at is None else at.text}" for name, at in found.items()]
    return f"not equal within {EQUAL_S:.0f} s: {', '.join(texts)}"


def _wait(reached: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline_s = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline_s:
            raise LiteMQError(f"{what} within {limit_s:.0f} s")
        time.sleep(_LOOK_S)
