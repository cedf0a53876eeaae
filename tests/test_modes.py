"""Modes that bind the node itself, as they bind one of an ordinary user.

Its root has lost what lets root ignore them; so the kernel refuses it for real.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from nodes import Cluster, Node
from tools import succeed
from waiting import eventually

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.caches,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have less than root"),
]

NAMES = ("none.db", "read.db", "good.db")


def state(node: Node, name: str) -> tuple[str, str]:
    status = node.status()
    found = [each for each in status.databases if each.name == name] if status else []
    return (found[0].state, found[0].reason) if found else ("", "")


@pytest.mark.diagonal
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_database_when_its_mode_binds_the_node_then_the_others_go_on_and_chmod_heals_it(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """One that nobody may read is failing for that reason, one that may only be read is replicated
    as it is."""
    cluster = new_cluster(start=False)
    primary, (replica,) = cluster.primary, cluster.replicas
    primary.confine(["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
    primary.announce("can't", "may be behind its log", "can't be logged")
    replica.announce("the primary is silent")
    cluster.start()
    for name in NAMES:
        with primary.connect(name) as app:
            app.script(f"PRAGMA journal_mode={mode}", "PRAGMA synchronous=FULL")
            app.script("CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
        cluster.agree(name)
    succeed("chmod", "0000", "none.db", directory=primary.mount)
    succeed("chmod", "0444", "read.db", directory=primary.mount)
    primary.kill()
    primary.start()
    eventually(lambda: state(primary, "none.db")[0], until="failing")
    assert "Permission denied" in state(primary, "none.db")[1]
    with primary.connect("good.db") as app:
        app.sql("INSERT INTO t VALUES(2)")
    cluster.agree("good.db")
    assert state(primary, "read.db") == ("ok", "")
    with primary.connect("read.db") as app:
        assert app.one("SELECT count(*) FROM t") == 1
    cluster.agree("read.db")
    assert state(primary, "none.db")[0] == "failing"

    # who only reads makes WAL and index with the database's mode, and may leave them
    succeed("sh", "-c", "chmod 0644 none.db* read.db*", directory=primary.mount)
    eventually(lambda: state(primary, "none.db"), until=("ok", ""), what="it is tried again")
    for name in NAMES:
        with primary.connect(name) as app:
            app.sql("INSERT INTO t VALUES(3)")
        cluster.agree(name)
