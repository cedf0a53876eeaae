"""Where the system gives a node no process and no thread any more: it goes on, says so, and heals.

A control group with a limit, which binds root as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from nodes import Cluster, Node
from task_limit import TaskLimit
from waiting import eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a control group"),
]

REFUSED = "no process or thread for an actor"


@pytest.fixture
def limit() -> Iterator[TaskLimit]:
    limit = TaskLimit("limit")
    yield limit
    limit.close()


@pytest.fixture(autouse=True)
def lifted(limit: TaskLimit, new_cluster: Callable[..., Cluster]) -> Iterator[None]:
    """The limit, before the nodes are to end; they do before their group goes."""
    del new_cluster
    yield
    limit.allow(None)


def confined(cluster: Cluster, node: Node, limit: TaskLimit) -> None:
    node.confine(limit.inside)
    cluster.start()


@pytest.mark.parametrize(
    "actor", ["log_writer", "stream_publisher", "fuse_capture", "replica_applier"]
)
def test_actor_when_it_gets_no_thread_then_the_node_waits_for_one(
    new_cluster: Callable[..., Cluster], limit: TaskLimit, actor: str
) -> None:
    """A process without the threads that it needs is no crash, however often; one line says which
    limit it is, and the node is whole when there are threads again."""
    cluster = new_cluster(start=False, sections={"supervisor": {"crash-limit": 1}})
    primary, (replica,) = cluster.primary, cluster.replicas
    node = replica if actor == "replica_applier" else primary
    node.announce("actor ended", REFUSED)
    primary.announce("the log writer does not read")
    replica.announce("the primary is silent")
    confined(cluster, node, limit)
    with primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
        cluster.agree("a.db")

        limit.allow(1)
        node.kill_actor(actor)
        eventually(lambda: node.logged(REFUSED), what="there is no process")
        (line,) = node.logged(REFUSED)
        assert f"pids.max of {limit.folder} is 1" in line["raise_the_limit"]
        for more in (1, 2):  # a process, and too few threads
            tried = len(node.logged("still no process or thread"))
            limit.allow(limit.tasks + more)
            eventually(
                lambda tried=tried: len(node.logged("still no process or thread")) >= tried + 3,
                what="it is tried again and again",
            )
            limit.allow(1)
        if actor not in ("fuse_capture", "replica_applier"):
            app.sql("INSERT INTO t VALUES(2)")
        status = node.status()
        assert status is not None
        assert {each.state for each in status.actors if each.name == actor} == {"no process"}
        assert len(node.logged(REFUSED)) == 1

        limit.allow(None)
        assert node.actor(actor).restarts == 1
    node.wait_ready()
    with primary.connect("a.db") as app:
        app.sql("INSERT INTO t VALUES(3)")
    cluster.agree("a.db")


def test_node_when_it_starts_without_threads_then_it_waits_for_them(
    new_cluster: Callable[..., Cluster], limit: TaskLimit
) -> None:
    """As for an address that is not there yet; commands say it in one line."""
    cluster = new_cluster(replicas=0, start=False)
    primary = cluster.primary
    primary.announce("waiting for processes and threads")
    primary.confine(limit.inside)
    limit.allow(1)
    primary.start(ready=False)
    eventually(lambda: primary.logged("waiting for processes and threads"), what="it says so")
    (line,) = primary.logged("waiting for processes and threads")
    assert f"pids.max of {limit.folder} is 1" in line["raise_the_limit"]
    limit.allow(None)
    primary.wait_ready()
    with primary.connect("a.db") as app:
        app.sql("CREATE TABLE t(x)")
    cluster.agree("a.db")
