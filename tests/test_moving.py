"""The primary moved by hand: other names in the files, the same data directories."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nodes import Cluster
from waiting import eventually

pytestmark = pytest.mark.fuse

MODES = ("wal", "delete")


def write(cluster: Cluster, mode: str, count: int) -> None:
    with cluster.primary.connect(f"{mode}.db") as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE IF NOT EXISTS t(x)")
        for _ in range(count):
            app.sql("INSERT INTO t VALUES(randomblob(3000))")


def rows(cluster: Cluster, mode: str) -> set[int]:
    """How many rows there are, on every node."""
    found = set()
    for node in cluster.nodes:
        with node.connect(f"{mode}.db") as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            found.add(reader.one("SELECT count(*) FROM t"))
    return found


def move(cluster: Cluster) -> None:
    """The replica becomes the primary, and the other way round, in the files of both."""
    old, new = cluster.primary, cluster.replicas[0]
    for node in (old, new):
        node.configure(new.address, {})
    cluster.primary, cluster.replicas[0] = new, old
    cluster.start()


def test_primary_when_it_is_moved_back_and_forth_then_both_histories_go_on(
    new_cluster: Callable[..., Cluster],
) -> None:
    """After clean ends: nothing is lost, nothing is repaired, TXIDs go on."""
    cluster = new_cluster()
    for round_ in range(4):
        for mode in MODES:
            write(cluster, mode, 5)
            before = cluster.agree(f"{mode}.db")
            assert before.txid >= 5 * round_
            assert rows(cluster, mode) == {5 * (round_ + 1)}
        for node in cluster.nodes:
            node.stop()
        move(cluster)
    for mode in MODES:
        cluster.agree(f"{mode}.db")
        assert rows(cluster, mode) == {20}
    for node in cluster.nodes:
        assert not node.logged("repair")


def test_primary_when_both_were_killed_and_it_is_moved_then_they_agree(
    new_cluster: Callable[..., Cluster],
) -> None:
    """The new one must have applied its log; what the old one had beyond it is kept aside."""
    cluster = new_cluster()
    both = {}
    for mode in MODES:
        write(cluster, mode, 5)
        both[f"{mode}.db"] = cluster.agree(f"{mode}.db")
    old = cluster.primary
    for node in cluster.nodes:
        node.announce("not a part of the primary's", "primary is silent", "stale")
    cluster.replicas[0].kill()
    for mode in MODES:
        write(cluster, mode, 3)  # what only the old one has
        cluster.captured(f"{mode}.db")
    old.kill()
    replica = cluster.replicas[0].start(ready=False)  # once more: it applies what it has
    eventually(
        lambda: (
            len(replica.logged("mounted")) == 2
            and all(replica.position(name) == position for name, position in both.items())
        ),
        what="it has applied its log",
    )
    replica.stop()
    move(cluster)
    for mode in MODES:
        write(cluster, mode, 1)
        cluster.agree(f"{mode}.db")
        assert rows(cluster, mode) == {6}
    assert len(list((old.data_dir / "diverged").iterdir())) == len(MODES)
