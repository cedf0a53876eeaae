"""Programs whose mount has died notice it: nobody reads an old state for ever, in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from nodes import Cluster, Node
from sql_process import SqlProcess
from waiting import eventually

from litemq.fs.mount import find_mount

pytestmark = pytest.mark.fuse

MODES = ("wal", "delete", "truncate")


def kill_actor(node: Node) -> None:
    before = find_mount(str(node.mount))
    node.kill_actor("fuse_capture")
    eventually(lambda: find_mount(str(node.mount)) != before, what="there is another mount")
    node.wait_ready()


def stop(node: Node) -> None:
    node.stop()
    node.start()


def kill(node: Node) -> None:
    node.kill()
    node.start()


def ended(reader: SqlProcess) -> bool:
    """It gets an error; an old state is what it must not go on to get."""
    (outcome,) = reader.ask("attempts", ["SELECT count(*) FROM t"])
    assert outcome[0] == "error", f"it reads {outcome}"
    assert outcome[-1] in ("disk I/O error", "unable to open database file")
    return True


@pytest.mark.parametrize("death", [kill_actor, stop, kill])
def test_readers_when_their_mount_dies_then_they_get_errors_and_no_old_state(
    new_cluster: Callable[..., Cluster], death: Callable[[Node], None]
) -> None:
    """On the primary and on a replica, whatever of the database they and the kernel have cached."""
    cluster = new_cluster()
    for mode in MODES:
        with cluster.primary.connect(f"{mode}.db") as app:
            app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t (x)")
            app.sql("INSERT INTO t VALUES (1)")
    for mode in MODES:
        cluster.agree(f"{mode}.db")
    for node in cluster.nodes:
        node.announce("actor ended", "can't apply", "primary is silent", "had changed without")
        node.announce("housekeeping failed")
        readers = {mode: node.connect(f"{mode}.db") for mode in MODES}
        for reader in readers.values():
            assert reader.one("SELECT count(*) FROM t") > 0
        death(node)
        for mode, reader in readers.items():
            eventually(lambda reader=reader: ended(reader), what="the mount's end is told")
            with cluster.primary.connect(f"{mode}.db") as app:
                app.sql("INSERT INTO t VALUES (2)")
            cluster.agree(f"{mode}.db")
            assert ended(reader)
            reader.disconnect()
            reader.open(node.mount / f"{mode}.db")
            with cluster.primary.connect(f"{mode}.db") as app:
                assert reader.sql("SELECT x FROM t") == app.sql("SELECT x FROM t")
            reader.close()
