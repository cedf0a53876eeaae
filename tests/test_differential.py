"""The same SQL on a native file and in the mount: the same results, errors, bytes, and replicas."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import Cluster
from sql_process import SqlProcess
from workload import (
    AUTO_VACUUM,
    CACHE_SIZES,
    JOURNAL_MODES,
    LOCKING,
    OTHER,
    PAGE_SIZES,
    SYNCHRONOUS,
    Case,
    Workload,
    pairwise,
)

pytestmark = pytest.mark.caches

CHOICES: dict[str, tuple[object, ...]] = {
    "journal_mode": JOURNAL_MODES,
    "page_size": PAGE_SIZES,
    "auto_vacuum": AUTO_VACUUM,
    "synchronous": SYNCHRONOUS,
    "cache_size": CACHE_SIZES,
    "locking": LOCKING,
}
PAIRWISE = [Case(**row) for row in pairwise(CHOICES)]  # type: ignore[arg-type]
PRODUCT = [Case(*values) for values in itertools.product(*CHOICES.values())]  # type: ignore[arg-type]
#: transactions before the nodes are compared for the first time, and after
TRANSACTIONS = (12, 8)


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """A primary, a replica with a mount and one with plain files."""
    return new_shared_cluster(replicas=1, plain=1)


class Both:
    """The same database twice: a native file and one in the mount, each with an application."""

    def __init__(self, native: Path, cluster: Cluster, name: str) -> None:
        native.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.name = name
        self.sides = [(directory, SqlProcess()) for directory in (native, cluster.primary.mount)]
        for directory, process in self.sides:
            process.open(directory / name)

    def run(self, statements: list[str]) -> None:
        """Run them on both; every result and every error must be the same."""
        answers = []
        for directory, process in self.sides:
            other = str(directory / f"other-{self.name}")
            process.start("attempts", [text.replace(OTHER, other) for text in statements])
        for directory, process in self.sides:
            found = process.finish()
            answers.append([[str(part).replace(str(directory), "") for part in a] for a in found])
        for statement, native, mounted in zip(statements, *answers, strict=True):
            assert native == mounted, f"{statement}: native {native}, in the mount {mounted}"

    def compare_bytes(self) -> None:
        """With the WAL copied back, both files are the same, byte for byte."""
        self.run(["PRAGMA wal_checkpoint(TRUNCATE)"])
        native, mounted = (
            process.ask("read", str(directory / self.name)) for directory, process in self.sides
        )
        assert len(native) == len(mounted)
        at = next((n for n, (a, b) in enumerate(zip(native, mounted, strict=True)) if a != b), -1)
        assert at == -1, f"byte {at} of {self.name} differs"

    def reopen(self) -> None:
        for directory, process in self.sides:
            process.disconnect()
            process.open(directory / self.name)

    def close(self) -> None:
        for _, process in self.sides:
            process.close()


def check(cluster: Cluster, native: Path, case: Case, seed: int) -> None:
    """One case from its first statement to its last."""
    name = f"{case}-{seed}.db"
    work = Workload(case, seed)
    both = Both(native, cluster, name)
    try:
        both.run(case.opening())
        both.run(work.schema())
        both.run(work.statements(TRANSACTIONS[0]))
        both.run(work.questions())
        if case.locking == "exclusive":
            both.reopen()  # gives up the lock, which the PRAGMA alone does not in every mode
        cluster.agree(name)
        both.compare_bytes()
        both.reopen()
        both.run(case.opening())
        both.run(work.statements(TRANSACTIONS[1]))
        both.run(work.questions())
        if case.locking == "exclusive":
            both.reopen()
        both.compare_bytes()
        cluster.agree(name)
        directory, process = both.sides[1]
        others = process.ask("listing", str(directory))
        if f"other-{name}" in others:
            cluster.agree(f"other-{name}")
        both.close()
        cluster.agree(name)
    finally:
        both.close()
    for database in (name, f"other-{name}"):
        if database in others:
            cluster.primary.hands.ask("unlink", str(cluster.primary.mount / database))


@pytest.mark.fuse
@pytest.mark.diagonal
@pytest.mark.parametrize("case", PAIRWISE, ids=str)
def test_workload_when_run_in_the_mount_then_all_is_as_on_a_native_file(
    shared: Cluster, tmp_path: Path, case: Case
) -> None:
    """Results, errors, bytes, and the pages of every replica."""
    check(shared, tmp_path, case, seed=1)


@pytest.mark.fuse
@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2, 4))
@pytest.mark.parametrize("case", PRODUCT, ids=str)
def test_workload_when_every_combination_is_run_then_all_is_as_on_a_native_file(
    shared: Cluster, tmp_path: Path, case: Case, seed: int
) -> None:
    """The same for the full product."""
    check(shared, tmp_path, case, seed)
