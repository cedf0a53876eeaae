"""Failover trials: a primary is struck while programs write, and every row is accounted for.

One trial at a time on one cluster of three. Before the next one the struck node has come back, and
all nodes are equal. Always true: what went wrong is in the result, and the files of the nodes are
kept then.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from litemq.bench import accounts, writers
from litemq.bench.accounts import Account
from litemq.bench.cluster import LocalCluster
from litemq.bench.local_node import LocalNode
from litemq.bench.scenarios import Scenario
from litemq.bench.writers import Writers
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
EQUAL_S = 30.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One. `after_ms` counts from the stroke to the first row elsewhere, `pause_ms` to that row
    from the last one before it. `crashes`: writers that a signal has killed. `wrong` is what else
    went wrong, or empty.
    """

    after_ms: float
    pause_ms: float
    account: Account
    crashes: int
    wrong: str

    @property
    def right(self) -> bool:
        return self.account.right and not self.wrong


def prepare(cluster: LocalCluster) -> None:
    """Make the database on the primary. Raises LiteMQError."""
    writers.prepare(cluster.wait_primary(), DATABASE)
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
        except LiteMQError:
            self._cluster.keep_files = True
            raise
        if not trial.right:
            self._cluster.keep_files = True
        return trial

    def _run(self, scenario: Scenario, number: int) -> Trial:
        cluster = self._cluster
        programs = Writers(cluster, DATABASE, number, RATE)
        programs.wait_rows(ROWS_BEFORE)
        programs.go_on(random.uniform(0.0, SCATTER_S))
        old = cluster.wait_primary()
        struck_ns = time.monotonic_ns()
        scenario.strike(old)
        programs.wait_elsewhere(old.name, struck_ns)
        programs.go_on(AFTER_S)
        scenario.undo(old)
        old.wait_ready(role="replica")
        programs.go_on(AFTER_S)
        programs.stop()
        wrong = _wait_equal(cluster)
        return self._account(programs, number, old, struck_ns, wrong)

    def _account(
        self, programs: Writers, number: int, old: LocalNode, struck_ns: int, wrong: str
    ) -> Trial:
        cluster, acks = self._cluster, programs.acks()
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
            crashes=programs.crashes,
            wrong=wrong,
        )


def _wait_equal(cluster: LocalCluster) -> str:
    """Empty when they are, else how they differ."""
    found = cluster.wait_equal(DATABASE, EQUAL_S)
    if len(set(found.values())) == 1:
        return ""
    texts = [f"{name} {'-' if at is None else at.text}" for name, at in found.items()]
    return f"not equal within {EQUAL_S:.0f} s: {', '.join(texts)}"
