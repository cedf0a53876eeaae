"""A primary that is set back, to a snapshot of its disk: the same epochs come twice, with other
contents. Replicas tell the histories apart, keep what is gone, and follow.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import Cluster, Node
from waiting import eventually

from litemq.actors import divergence

pytestmark = pytest.mark.fuse

KEPT = "the primary does not have are kept aside"
MOVED_ON = "this node was set back"
REFUSED = "refused a primary of an older epoch"
#: transactions of the other history, starts that were set back, whether the replica was away
IN_CI = ((2, 1, False),)
_names = (f"back{number}.db" for number in itertools.count(1))


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster()
    for node in cluster.nodes:
        node.announce(KEPT, MOVED_ON, REFUSED, "primary is silent")
    return cluster


@pytest.fixture(params=["wal", "delete"])
def name(shared: Cluster, request: pytest.FixtureRequest) -> str:
    name = next(_names)
    shared.start()
    with shared.primary.connect(name) as app:
        app.script(f"PRAGMA journal_mode={request.param}", "CREATE TABLE t(x)")
    write(shared.primary, name, "common", 3)
    shared.agree(name)
    return name


def write(node: Node, name: str, what: str, rows: int) -> None:
    with node.connect(name) as app:
        for number in range(rows):
            app.sql(f"INSERT INTO t VALUES('{what} {number}')")


def epoch_of(node: Node) -> int:
    status = node.status()
    return 0 if status is None else status.epoch


@pytest.mark.parametrize(
    ("rows", "starts", "away"),
    [
        case if case in IN_CI else pytest.param(*case, marks=pytest.mark.torture)
        for case in itertools.product((0, 2, 5, 9), (1, 3), (False, True))
    ],
)
def test_primary_when_it_is_set_back_then_replicas_keep_what_is_gone_and_follow(
    shared: Cluster, name: str, tmp_path: Path, rows: int, starts: int, away: bool
) -> None:
    """Whether it is behind its replica then, as far, or ahead; whatever epoch it comes with; also
    for a replica that was away meanwhile.
    """
    primary, (replica,) = shared.primary, shared.replicas
    primary.stop()
    shutil.copytree(
        primary.data_dir, tmp_path / "snapshot", ignore=shutil.ignore_patterns("run", "log.jsonl*")
    )
    common = primary_txid = 0
    for start in range(starts):
        primary.start()
        if not start:
            common = shared.agree(name).txid
        write(primary, name, f"gone {start}", 5 if start == starts - 1 else 1)
        primary_txid = shared.agree(name).txid
        primary.stop()
    seen = epoch_of(replica)
    if away:
        replica.stop()
    shutil.rmtree(primary.data_dir)
    (tmp_path / "snapshot").rename(primary.data_dir)
    primary.start()
    write(primary, name, "other", rows)
    if away:
        shared.captured(name)
        replica.start(ready=False)
    eventually(lambda: epoch_of(primary) > seen, what="the primary has moved on")
    replica.wait_ready()
    shared.agree(name)
    write(primary, name, "after", 1)
    shared.agree(name)
    for node in shared.nodes:
        with node.connect(name) as reader:
            found = [value for (value,) in reader.sql("SELECT x FROM t")]
            assert found == [
                *(f"common {n}" for n in range(3)), *(f"other {n}" for n in range(rows)), "after 0"
            ]  # fmt: skip
    kept = [
        each
        for each in divergence.entries(replica.data_dir / "diverged")
        if isinstance(each, divergence.Divergence) and each.database == name
    ]
    assert [(each.head.txid, each.last_common) for each in kept] == [(primary_txid, common)]
