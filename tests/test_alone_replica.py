"""A program that does not wait for locks, while a replica copies its whole database."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nodes import Cluster
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.caches]

DATABASE = "copied.db"
ROWS = 3000


_UPDATE = f"UPDATE t SET x = randomblob(8000) WHERE i = 1 + abs(random()) % {ROWS}"
CHANGES = {
    "delete": ["BEGIN EXCLUSIVE", _UPDATE, "COMMIT", _UPDATE],
    "wal": [_UPDATE, "PRAGMA journal_mode=DELETE", _UPDATE, "PRAGMA journal_mode=WAL"],
}


def test_program_when_a_replica_copies_its_database_in_rollback_mode_then_it_finds_no_lock(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It has the database to itself, and commits."""
    _copy_beside_a_program(new_cluster, "delete")


def test_program_when_a_replica_copies_its_database_in_wal_mode_then_it_finds_no_lock(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It leaves WAL mode and comes back, for which it has to be alone."""
    _copy_beside_a_program(new_cluster, "wal")


def _copy_beside_a_program(new_cluster: Callable[..., Cluster], mode: str) -> None:
    cluster = new_cluster(
        replicas=0, sections={"retention": {"bytes": "1MiB", "segment-bytes": "1MiB"}}
    )
    primary = cluster.primary
    with primary.connect(DATABASE, timeout_s=0) as app:
        app.script(
            f"PRAGMA journal_mode={mode}",
            "CREATE TABLE t(i INTEGER PRIMARY KEY, x)",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
            f"{ROWS}) INSERT INTO t SELECT i, randomblob(8000) FROM n",
        )
        # a log that does not begin with the database: its pages are copied
        app.ask("attempts", [_UPDATE] * 200)
        eventually(lambda: primary.logged("deleted old log segments"), what="the log is cut")
        refused = []
        replica = cluster.add_replica(fuse=False, start=False).start(ready=False)

        def copied() -> bool:
            outcomes = app.ask("attempts", CHANGES[mode] * 10)
            refused.extend(each for each in outcomes if each[0] == "error")
            return replica.position(DATABASE) is not None

        eventually(copied, what="the replica has the database")
        replica.wait_ready()
        assert not refused, refused
    cluster.agree(DATABASE)
