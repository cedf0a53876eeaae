"""How nodes find each other: over a network, a replica listens on all addresses of its machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from namespaces import Network
from nodes import Cluster, Node

pytestmark = pytest.mark.fuse


def test_replica_when_it_listens_on_all_addresses_then_it_is_answered_at_one(
    new_network: Callable[..., Network], new_cluster: Callable[..., Cluster]
) -> None:
    """What is older than it, and what is too large for the stream, comes over connections that the
    primary makes.
    """
    hosts = new_network("primary", "replica").hosts
    cluster = new_cluster(replicas=0, start=False)

    def node(name: str, primary: str = "") -> Node:
        host = hosts[name]
        directory = cluster.directory / f"on-{name}"
        return Node(directory, name, primary=primary, host=host.ip, inside=host.inside)

    cluster.primary = node("primary")
    replica = node("replica", cluster.primary.address)
    replica.configure(cluster.primary.address, {"stream": {"listen": f"tcp://*:{replica.port}"}})
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app:
        app.script("CREATE TABLE t(x)", "INSERT INTO t VALUES(randomblob(200000))")
        cluster.replicas.append(replica.start())
        cluster.agree("a.db")
        app.sql("INSERT INTO t VALUES(randomblob(200000))")
        cluster.agree("a.db")
    (connected,) = cluster.primary.logged("replica connected")
    assert connected["address"] == f"tcp://{hosts['replica'].ip}:{replica.port + 2}"
