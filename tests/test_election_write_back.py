"""Elected primaries whose writes the kernel caches: a lease ends there as anywhere else."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from commands import environment, litemq
from consul_server import ConsulServer
from electorate import DATABASE, RETURN, Electorate, by_consul, deposing, role
from nodes import Node
from sql_process import SqlError
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.consul, pytest.mark.caches(True)]

_keys = itertools.count(1)


@pytest.fixture
def elect(
    new_electorate: Callable[..., Electorate], consul: ConsulServer
) -> Callable[..., Electorate]:
    """Make an electorate. Commits with synchronous=NORMAL do not come to the mount."""

    def make(synchronous: str = "NORMAL", mode: str = "wal") -> Electorate:
        election = by_consul(consul.address, f"litemq/cached{next(_keys)}")
        return new_electorate(election, mode=mode, synchronous=synchronous)

    return make


def test_primary_when_stalled_beyond_its_lease_then_programs_are_held_and_then_refused(
    elect: Callable[..., Electorate],
) -> None:
    """SIGSTOP of all its processes, not of the programs: the kernel asks a mount that sleeps."""
    cluster = elect()
    cluster.write()
    cluster.read()
    cluster.wait_acks(200)
    old = cluster.primary
    cluster.freeze(old)
    cluster.wait_acks(50)
    told = len(cluster.acks(old))
    new = cluster.wait_primary(other_than=old)
    cluster.wake(old)
    eventually(lambda: role(old) == "replica", what="the woken one is a replica")
    old.wait_ready()
    assert len(cluster.acks(old)) <= told + 1  # SQLite's answer was on its way
    cluster.settle()  # no two epochs overlap, nothing acknowledged is nowhere
    assert cluster.primary is new


def test_primary_when_only_its_watcher_stalls_then_its_mount_ends_the_lease_in_time(
    elect: Callable[..., Electorate],
) -> None:
    """Nobody tells it anything: it was told when the lease ends."""
    cluster = elect()
    cluster.write(*cluster.replicas)
    old = cluster.primary
    with deposing(cluster, old), old.connect(DATABASE, timeout_s=1) as app:
        for _ in range(3):
            with pytest.raises(SqlError, match=r"readonly|disk I/O"):
                app.sql("INSERT INTO pair VALUES (-1, 'x')")
    cluster.settle()


def test_primary_when_told_to_stop_then_it_hands_over_and_nothing_is_lost(
    elect: Callable[..., Electorate],
) -> None:
    """Twice, with programs that commit without a sync all the time."""
    cluster = elect()
    for _ in range(2):
        cluster.write()
        cluster.read()
        cluster.wait_acks(100)
        old = cluster.primary
        old.stop()
        cluster.wait_acks(20)
        cluster.quiet()  # how a node starts beside busy ones is for others to show
        old.start()
    cluster.write()
    assert cluster.settle() == []


@pytest.mark.parametrize(
    "actor",
    [
        "fuse_capture",
        pytest.param("log_writer", marks=pytest.mark.torture),
        pytest.param("election_watcher", marks=pytest.mark.torture),
    ],
)
def test_primary_when_one_of_its_actors_is_killed_then_writes_go_on(
    elect: Callable[..., Electorate], actor: str
) -> None:
    """Also when it was the mount: what the kernel had cached is read before it goes."""
    cluster = elect("FULL" if actor == "fuse_capture" else "NORMAL")
    cluster.announce("actor ended", "can't apply", "housekeeping failed", *RETURN)
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    cluster.primary.kill_actor(actor)
    cluster.wait_acks(100)
    cluster.settle()


def test_primary_when_killed_under_load_then_synced_commits_are_kept(
    elect: Callable[..., Electorate],
) -> None:
    """As after a power failure; back again, its file is brought forward, or repaired."""
    cluster = elect("FULL")
    cluster.write()
    cluster.read()
    for _ in range(2):
        cluster.wait_acks(200)
        old = cluster.primary
        cluster.kill(old)
        cluster.wait_acks(20)
        cluster.wait_primary(other_than=old)
        old.start()
    cluster.settle()


def test_replica_when_its_mount_is_killed_then_its_files_are_compared(
    elect: Callable[..., Electorate],
) -> None:
    """What the applier had written was in the kernel's cache, and is gone with it."""
    cluster = elect()
    cluster.announce("actor ended", "can't apply", "housekeeping failed", *RETURN)
    cluster.write()
    cluster.read()  # until then nobody can read them: no reader goes back
    for _ in range(3):
        cluster.wait_acks(100)
        replica = cluster.replicas[0]
        replica.kill_actor("fuse_capture")
        replica.wait_ready()
    assert cluster.settle() == []


def test_replica_when_killed_and_promoted_at_once_then_its_files_were_compared(
    elect: Callable[..., Electorate],
) -> None:
    """Its applier had written to a cache that is gone; it is no successor before it has looked."""
    cluster = elect()
    cluster.write()
    cluster.read()
    for _ in range(3):
        cluster.wait_acks(200)
        replica = cluster.replicas[0]
        cluster.kill(replica)
        replica.start(ready=False)
        eventually(lambda replica=replica: replica.status(), what="it answers")
        litemq("promote", "--config", replica.config_path)
    cluster.settle()


def test_node_when_it_is_alone_and_a_transaction_outlasts_its_lease_then_it_serves_again(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate]
) -> None:
    """Its log is behind its file until the program goes on, and nobody else has the rest."""
    consul = own_consul()
    cluster = new_electorate(by_consul(consul.address, "litemq/alone"), size=1)
    cluster.announce("the role has not changed", *RETURN)
    (node,) = cluster.nodes
    with node.connect(DATABASE) as app:
        app.script("BEGIN IMMEDIATE", "INSERT INTO pair VALUES (-1, 'x')")
        with consul.stopped():
            eventually(lambda: role(node) == "replica", what="its lease has ended")
        cluster.wait_primary()
        assert app.ask("attempt", "COMMIT", [])[0] == "error"
    with node.connect(DATABASE) as app:
        assert app.sql("SELECT * FROM pair WHERE id = -1") == []
    cluster.write()
    cluster.settle()


def promotions(node: Node) -> list[Any]:
    return node.logged("^election$", state="promoting")


def test_successor_when_its_mount_dies_while_it_takes_over_then_it_serves_no_older_state(
    elect: Callable[..., Electorate],
) -> None:
    """What the applier had cached there is gone, and the log is ahead of the file."""
    cluster = elect()
    cluster.announce("actor ended", "can't apply", "housekeeping failed", *RETURN)
    cluster.announce("the role has not changed")
    for _ in range(4):
        cluster.write()
        cluster.wait_acks(100)
        replica = cluster.replicas[0]
        fuse = replica.actor("fuse_capture").pid
        before = len(promotions(replica))
        asked = subprocess.Popen(
            [sys.executable, "-m", "litemq", "promote", "--config", str(replica.config_path)],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(lambda node=replica, n=before: len(promotions(node)) > n, what="it takes over")
        with contextlib.suppress(ProcessLookupError):
            os.kill(fuse, signal.SIGKILL)
        cluster.wait_acks(20)
        cluster.quiet()  # the command may wait ten seconds for a change of role that does not come
        asked.wait(60)
    cluster.write()
    cluster.settle()


def test_application_when_its_primary_is_deposed_then_it_opens_the_database_anew(
    elect: Callable[..., Electorate],
) -> None:
    """The mount is another one: what was open in the old one is an I/O error."""
    cluster = elect()
    cluster.write(*cluster.replicas)
    old = cluster.primary
    with old.connect(DATABASE) as app:
        app.script("BEGIN", "INSERT INTO pair VALUES (-1, 'x')", "ROLLBACK")
        with deposing(cluster, old):
            pass
        eventually(lambda: role(old) == "replica", what="the deposed one is a replica")
        old.wait_ready()
        kind, name, message = app.ask("attempt", "SELECT count(*) FROM entry", [])
        assert (kind, name, message) == ("error", "OperationalError", "disk I/O error")
        app.disconnect()
        app.open(old.mount / DATABASE)
        before = app.one("SELECT count(*) FROM entry")
        cluster.wait_acks(20)
        eventually(lambda: app.one("SELECT count(*) FROM entry") > before, what="it sees new rows")
        with pytest.raises(SqlError, match="readonly"):
            app.sql("INSERT INTO pair VALUES (-1, 'x')")
    cluster.settle()


def check_reader(node: Node) -> None:
    """It sees nothing of a transaction that was not committed, be it by an error."""
    with node.connect(DATABASE, timeout_s=0.5) as reader:
        kind, *found = reader.ask("attempt", "SELECT x FROM bulk", [])
        assert kind == "error" or found == [[[1]]], found


@pytest.mark.parametrize(
    ("mode", "synchronous"),
    [
        pytest.param("delete", "FULL", marks=pytest.mark.torture),
        ("delete", "OFF"),
        ("persist", "OFF"),
        pytest.param("truncate", "OFF", marks=pytest.mark.torture),
        pytest.param("persist", "FULL", marks=pytest.mark.torture),
    ],
)
def test_transaction_when_the_lease_ends_before_its_journal_then_it_is_not_committed(
    elect: Callable[..., Electorate], mode: str, synchronous: str
) -> None:
    """All its pages were written in time, perhaps to the cache alone; what ends it is refused.

    So is the next one, which would be cached as a whole.
    """
    cluster = elect("FULL", mode=mode)
    old = cluster.primary
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE bulk(x)", "INSERT INTO bulk VALUES(1)", "PRAGMA cache_size=2")
        app.script(f"PRAGMA journal_mode={mode}", f"PRAGMA synchronous={synchronous}")
        app.sql("UPDATE bulk SET x = 1")
        cluster.agree(DATABASE)
        cluster.write(*cluster.replicas)
        app.script(
            "BEGIN",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) "
            "INSERT INTO bulk SELECT randomblob(3000) FROM n",
        )
        with deposing(cluster, old):
            assert app.ask("attempt", "COMMIT", [])[0] == "error"
            check_reader(old)
            with old.connect(DATABASE, timeout_s=0.5) as other:
                for pragma in (f"journal_mode={mode}", f"synchronous={synchronous}"):
                    other.ask("attempt", f"PRAGMA {pragma}", [])  # reads, and so may roll back
                assert other.ask("attempt", "UPDATE bulk SET x = 2", [])[0] == "error"
    eventually(lambda: role(old) == "replica", what="the deposed one is a replica")
    cluster.settle()
    for node in cluster.nodes:
        with node.connect(DATABASE) as reader:
            assert reader.sql("SELECT x FROM bulk") == [(1,)], node.name
