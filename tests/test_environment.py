"""What machines do to a node: another locale, a cleaner of temporary folders."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest
from nodes import Cluster
from waiting import eventually

from litemq import config as configuration

pytestmark = pytest.mark.fuse

NAMES = ("ok.db", "ü.db", "日本.db", "a\nb.db", 'it\'s "q".db', "100%d.db", "what?#.db", "s p.db")
GONE = "a socket's file was deleted"


def insert(path: os.PathLike[str]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS t(x)")
        database.execute("INSERT INTO t VALUES(1)")


def test_names_when_the_locale_is_another_then_each_is_replicated_as_it_is(
    new_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are UTF-8, whatever the environment says of letters."""
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    cluster = new_cluster()
    for name in ("LC_ALL", "PYTHONUTF8", "PYTHONCOERCECLOCALE"):
        monkeypatch.delenv(name)
    primary, (replica,) = cluster.primary, cluster.replicas
    pids = [primary.actor("fuse_capture").pid, primary.actor("log_writer").pid]
    for name in NAMES:
        insert(primary.mount / name)
    eventually(
        lambda: {*os.listdir(replica.mount)} >= {*NAMES}, what="all of them are on the replica"
    )
    assert [primary.actor("fuse_capture").pid, primary.actor("log_writer").pid] == pids


def test_sockets_when_their_files_are_deleted_then_actors_that_die_come_back(
    new_cluster: Callable[..., Cluster],
) -> None:
    """One by one, and with their folder."""
    cluster = new_cluster()
    for node in cluster.nodes:
        node.announce(GONE, "actor ended", "primary is silent")
    insert(cluster.primary.mount / "a.db")
    cluster.agree("a.db")
    for whole in (False, True):
        for node in cluster.nodes:
            run = configuration.load(node.config_path).run_dir
            before = {path.name for path in run.iterdir() if not path.name.startswith("reply")}
            for path in run.iterdir():
                path.unlink()
            if whole:
                shutil.rmtree(run)
            eventually(
                lambda run=run, before=before: (
                    run.exists() and {path.name for path in run.iterdir()} >= before
                ),
                what="they are there again",
            )
        for node, names in (
            (cluster.primary, ("log_writer", "fuse_capture", "stream_publisher")),
            (cluster.replicas[0], ("replica_applier", "fuse_capture")),
        ):
            for name in names:
                old = node.kill_actor(name)
                eventually(
                    lambda node=node, name=name, old=old: node.actor(name).pid != old,
                    what=f"{name} is back",
                )
                node.wait_ready()
        insert(cluster.primary.mount / "a.db")
        cluster.agree("a.db")
