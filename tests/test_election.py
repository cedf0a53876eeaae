"""Nodes that elect: whatever happens to the primary, another serves, and nothing is lost unsaid."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import litemq
from consul_server import ConsulServer
from electorate import (
    AHEAD,
    DATABASE,
    RETURN,
    Electorate,
    by_consul,
    deposing,
    diverged_pages,
    role,
)
from leftovers import has_ended
from nodes import Node
from sql_process import SqlError, SqlProcess
from tools import succeed
from waiting import eventually

from litemq.actors import proc
from litemq.election.lease import decode_claim
from litemq.fs.wal_tail import WalTail

pytestmark = pytest.mark.fuse

_keys = itertools.count(1)
GIVEN_BACK = "replica: the lease of epoch {}, unknown here, is given back"


CONSUL = pytest.param("consul", marks=pytest.mark.consul)
RARELY = pytest.param("consul", marks=[pytest.mark.consul, pytest.mark.torture])
by_both = pytest.mark.parametrize("elect", ["file", CONSUL], indirect=True)
by_file_first = pytest.mark.parametrize("elect", ["file", RARELY], indirect=True)


@pytest.fixture
def elect(
    request: pytest.FixtureRequest, new_electorate: Callable[..., Electorate]
) -> Callable[..., Electorate]:
    """Make an electorate of each kind."""

    def make(**options: Any) -> Electorate:
        election = None
        if request.param == "consul":
            consul: ConsulServer = request.getfixturevalue("consul")
            election = by_consul(consul.address, f"litemq/nodes{next(_keys)}")
        return new_electorate(election, **options)

    return make


@pytest.mark.parametrize(
    ("elect", "mode"),
    [
        ("file", "wal"),
        ("file", "delete"),
        pytest.param("consul", "wal", marks=pytest.mark.consul),
        pytest.param("consul", "delete", marks=[pytest.mark.consul, pytest.mark.torture]),
    ],
    indirect=["elect"],
)
def test_primary_when_killed_under_load_then_another_serves_and_it_returns(
    elect: Callable[..., Electorate], mode: str
) -> None:
    """kill -9 of all its processes; back again, it is a replica, and keeps what only it had."""
    cluster = elect(mode=mode)
    cluster.write()
    cluster.read()
    cluster.wait_acks(200)
    old = cluster.primary
    cluster.kill(old)
    cluster.wait_acks(20)
    new = cluster.wait_primary(other_than=old)
    old.start()
    cluster.wait_acks(20, nodes=[new])
    cluster.settle()
    assert cluster.primary is new


@by_file_first
def test_primary_when_killed_within_a_transaction_then_what_came_before_it_is_kept(
    elect: Callable[..., Electorate],
) -> None:
    """Its log lacks a commit that its file has, and the file has a hot journal when it returns."""
    cluster = elect(mode="delete")
    old = cluster.primary
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE bulk(x)", "PRAGMA cache_size=2")
        cluster.agree(DATABASE)
        os.kill(old.actor("log_writer").pid, signal.SIGSTOP)
        app.script(
            "INSERT INTO bulk VALUES('told, and not logged')",
            "BEGIN",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) "
            "INSERT INTO bulk SELECT randomblob(3000) FROM n",
        )
        cluster.kill(old)
    cluster.wait_primary(other_than=old)
    cluster.write()
    cluster.wait_acks(20)
    old.start()
    cluster.settle()
    assert any(b"told, and not logged" in page for page in diverged_pages(old))


def test_primary_when_its_file_was_cut_while_it_was_dead_then_it_has_what_the_others_have(
    new_electorate: Callable[..., Electorate],
) -> None:
    """What could not be read is not taken for what the log says."""
    cluster = new_electorate(mode="delete")
    old = cluster.primary
    old.announce("can't read the database", *RETURN)
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE bulk(x)", "INSERT INTO bulk VALUES(zeroblob(100000))")
    cluster.agree(DATABASE)
    cluster.kill(old)
    cluster.wait_primary(other_than=old)
    file = old.data_dir / "files" / DATABASE
    os.truncate(file, file.stat().st_size - 50000)
    old.start()
    cluster.write()
    cluster.wait_acks(20)
    cluster.settle()


@pytest.mark.consul
def test_primary_when_its_supervisor_is_killed_then_its_lease_is_given_back(
    new_electorate: Callable[..., Electorate], consul: ConsulServer
) -> None:
    """Its actors die with it, and the last one tells Consul: the lease need not run out."""
    key = f"litemq/nodes{next(_keys)}"
    cluster = new_electorate(by_consul(consul.address, key))
    cluster.write()
    cluster.read()
    cluster.wait_acks(200)
    old = cluster.primary
    old.announce(*RETURN)
    cluster.announce(*AHEAD)
    claim = decode_claim(consul.call("GET", f"/v1/kv/{key}?raw"), key, "")
    assert claim.node == old.name
    old.kill()
    assert old.logged("the node has died")
    checks = [each["ServiceID"] for each in consul.ask("/v1/health/checks/litemq")]
    assert claim.witness not in checks, "it ended by itself, and not with its TTL"
    cluster.wait_acks(20)
    new = cluster.wait_primary(other_than=old)
    cluster.settle()
    assert cluster.primary is new


@pytest.mark.consul
def test_watcher_when_it_is_started_anew_then_it_gives_the_lease_before_it_back(
    new_electorate: Callable[..., Electorate], consul: ConsulServer
) -> None:
    """Once its mount has refused commits and is a replica's; nobody waits for the lease to end."""
    key = f"litemq/nodes{next(_keys)}"
    cluster = new_electorate(by_consul(consul.address, key, ttl="4s"))  # no lease ends first
    cluster.announce("actor ended", "can't apply", *RETURN)
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    old = cluster.primary
    claim = decode_claim(consul.call("GET", f"/v1/kv/{key}?raw"), key, "")
    old.kill_actor("election_watcher")
    eventually(lambda: old.logged("election", told=GIVEN_BACK.format(claim.epoch)), what="it does")
    cluster.wait_acks(50)
    checks = [each["ServiceID"] for each in consul.ask("/v1/health/checks/litemq")]
    assert claim.witness not in checks, "it ended by itself, and not with its TTL"
    cluster.settle()


@pytest.mark.consul
def test_lease_when_a_mount_of_a_dead_node_might_live_then_it_is_not_given_back(
    new_electorate: Callable[..., Electorate], consul: ConsulServer
) -> None:
    """It runs out instead: the test holds what such a mount would hold until it is dead."""
    key = f"litemq/nodes{next(_keys)}"
    cluster = new_electorate(by_consul(consul.address, key))
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    old = cluster.primary
    old.announce(*RETURN)
    fuse, watcher = old.actor("fuse_capture").pid, old.actor("election_watcher").pid
    (lifeline,) = pipes(fuse, writing=True) & pipes(watcher, writing=False)
    held = os.open(f"/proc/{fuse}/fd/{pipe_fd(fuse, lifeline)}", os.O_WRONLY)
    try:
        old.kill()
        assert not old.logged("the node has died")
        claim = decode_claim(consul.call("GET", f"/v1/kv/{key}?raw"), key, "")
        assert not claim.released
        cluster.wait_acks(20)
    finally:
        os.close(held)
    cluster.settle()


def pipes(pid: int, *, writing: bool) -> set[str]:
    """The pipes of which a process has that end, as the kernel names them."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            name, mode = os.readlink(fd), os.lstat(fd).st_mode
            if name.startswith("pipe:") and bool(mode & stat.S_IWUSR) == writing:
                found.add(name)
    return found


def pipe_fd(pid: int, name: str) -> str:
    """The descriptor of its writing end."""
    return next(
        fd.name
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(fd) == name and os.lstat(fd).st_mode & stat.S_IWUSR
    )


@pytest.mark.consul
def test_primary_when_stalled_beyond_its_lease_then_it_accepts_nothing_when_it_wakes(
    new_electorate: Callable[..., Electorate], consul: ConsulServer
) -> None:
    """SIGSTOP of all its processes under load; it becomes a replica, and nobody lies."""
    cluster = new_electorate(by_consul(consul.address, f"litemq/nodes{next(_keys)}"))
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
    cluster.settle()
    assert cluster.primary is new


def test_primary_when_stalled_with_a_lock_file_then_it_goes_on_when_it_wakes(
    new_electorate: Callable[..., Electorate],
) -> None:
    """The kernel keeps the lock of a process that is stopped, and nobody else serves meanwhile."""
    cluster = new_electorate()
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    old = cluster.primary
    cluster.freeze(old)
    other = next(node for node in cluster.nodes if node is not old)
    eventually(lambda: other.logged("primary is silent"), what="it is missed")
    assert {ack.node for ack in cluster.acks()} == {old.name}
    cluster.wake(old)
    cluster.wait_acks(50, nodes=[old])
    assert cluster.settle() == []


@pytest.mark.parametrize(
    ("elect", "mode", "synchronous"),
    [
        ("file", "wal", "NORMAL"),
        ("file", "delete", "FULL"),
        pytest.param("consul", "wal", "NORMAL", marks=pytest.mark.consul),
        pytest.param("consul", "delete", "FULL", marks=[pytest.mark.consul, pytest.mark.torture]),
        pytest.param("file", "wal", "FULL", marks=pytest.mark.torture),
    ],
    indirect=["elect"],
)
def test_primary_when_told_to_stop_then_it_hands_over_and_nothing_is_lost(
    elect: Callable[..., Electorate], mode: str, synchronous: str
) -> None:
    """SIGTERM: no row is diverged, though the old one has not come back when they are counted."""
    cluster = elect(mode=mode, synchronous=synchronous)
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


@by_file_first
@pytest.mark.parametrize("actor", ["election_watcher", "fuse_capture", "log_writer"])
def test_primary_when_one_of_its_actors_is_killed_then_writes_go_on(
    elect: Callable[..., Electorate], actor: str
) -> None:
    """On this node or another one; everything acknowledged is there."""
    cluster = elect()
    cluster.announce("actor ended", "can't apply", "housekeeping failed", *RETURN)
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    cluster.primary.kill_actor(actor)
    cluster.wait_acks(100)
    cluster.settle()


@pytest.mark.parametrize(
    ("elect", "number"),
    [
        ("file", signal.SIGKILL),
        ("file", signal.SIGTERM),
        pytest.param("consul", signal.SIGKILL, marks=[pytest.mark.consul, pytest.mark.torture]),
        pytest.param("consul", signal.SIGTERM, marks=pytest.mark.consul),
    ],
    indirect=["elect"],
)
def test_primary_when_its_watcher_ends_and_nobody_starts_it_anew_then_no_two_serve(
    elect: Callable[..., Electorate], number: int
) -> None:
    """Its mount still takes writes: until the lease is over, or, with a lock file, all the time."""
    cluster = elect()
    cluster.announce("actor ended", "can't apply", *RETURN)
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    old = cluster.primary
    others = [node for node in cluster.nodes if node is not old]
    watcher = old.actor("election_watcher").pid
    by_consul = "election.consul" in cluster.sections
    os.kill(old.pid, signal.SIGSTOP)
    try:
        os.kill(watcher, number)
        eventually(lambda: has_ended(watcher), what="the watcher is gone")
        cluster.wait_acks(50 if by_consul else 300, nodes=others if by_consul else [old])
    finally:
        os.kill(old.pid, signal.SIGCONT)
    cluster.settle()


@by_both
@pytest.mark.parametrize("order", [(0, 1, 2), pytest.param((2, 1, 0), marks=pytest.mark.torture)])
def test_nodes_when_all_were_killed_then_they_go_on_in_any_order(
    elect: Callable[..., Electorate], order: tuple[int, ...]
) -> None:
    """The first one up may have been a replica that lagged."""
    cluster = elect()
    cluster.write()
    cluster.wait_acks(200)
    cluster.kill(*cluster.nodes)
    for number in order:
        cluster.nodes[number].start(ready=False)
    cluster.settle()


@by_file_first
def test_node_when_its_disk_is_empty_then_it_joins(elect: Callable[..., Electorate]) -> None:
    """While others write; then it is the only one left, and serves."""
    cluster = elect(size=2)
    cluster.write()
    cluster.wait_acks(100)
    late = cluster.add()
    late.start()
    cluster.write(late)
    cluster.wait_acks(50)
    cluster.agree_now()
    primary = cluster.wait_primary()
    others = [node for node in cluster.nodes if node is not late]
    for node in sorted(others, key=lambda node: node is primary):
        node.stop()
    cluster.wait_acks(50, nodes=[late])
    cluster.settle()


@by_file_first
def test_node_when_it_is_alone_then_it_serves_and_serves_again(
    elect: Callable[..., Electorate],
) -> None:
    """A cluster of one, stopped, killed, with one of its actors killed."""
    cluster = elect(size=1)
    cluster.announce("actor ended", "can't apply", *RETURN)
    (node,) = cluster.nodes
    cluster.write()
    cluster.wait_acks()
    node.stop()
    node.start()
    cluster.wait_acks()
    cluster.kill(node)
    node.start()
    cluster.wait_acks()
    node.kill_actor("election_watcher")
    cluster.wait_acks()
    assert cluster.settle() == []


@pytest.mark.consul
def test_application_when_its_primary_is_deposed_then_it_reads_and_sqlite_names_the_error(
    new_electorate: Callable[..., Electorate], consul: ConsulServer, write_back: bool
) -> None:
    """A connection that was open before the change; where writes are cached, one made after it."""
    cluster = new_electorate(by_consul(consul.address, f"litemq/nodes{next(_keys)}"))
    cluster.write(*cluster.replicas)
    old = cluster.primary
    with old.connect(DATABASE) as app:
        insert = "INSERT INTO pair VALUES (-1, 'x')"
        app.script("BEGIN", insert, "ROLLBACK")
        depose(cluster, old)
        if write_back:  # it has another mount
            app.disconnect()
            app.open(old.mount / DATABASE)
        before = app.one("SELECT count(*) FROM entry")
        kind, name, message = app.ask("attempt", insert, [])
        assert (kind, name) == ("error", "OperationalError")
        assert message in ("attempt to write a readonly database", "disk I/O error"), message
        cluster.wait_acks(20)
        eventually(lambda: app.one("SELECT count(*) FROM entry") > before, what="it sees new rows")
    cluster.settle()


def opened(app: SqlProcess, node: Node) -> bool:
    """Not while the node's mount is being made."""
    with contextlib.suppress(SqlError):
        app.open(node.mount / DATABASE)
        return True
    return False


@pytest.mark.consul
def test_transaction_when_the_lease_ends_before_its_journal_then_it_is_not_committed(
    new_electorate: Callable[..., Electorate], consul: ConsulServer, write_back: bool
) -> None:
    """All its pages were written in time; whatever ends the journal comes too late."""
    cluster = new_electorate(by_consul(consul.address, f"litemq/nodes{next(_keys)}"), mode="delete")
    old = cluster.primary
    journal = f"{old.mount / DATABASE}-journal"
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE bulk(x)", "INSERT INTO bulk VALUES(1)", "PRAGMA cache_size=2")
        cluster.write(*cluster.replicas)
        insert = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) "
            "INSERT INTO bulk SELECT randomblob(3000) FROM n"
        )
        app.script("BEGIN", insert)
        before = app.ask("size", str(old.mount / DATABASE))
        assert before > 200 * 3000, "nothing was spilled"
        with deposing(cluster, old):
            ends: list[tuple[Any, ...]] = [("unlink", journal), ("truncate", journal, 0)]
            if not write_back:  # there the write ends nothing; the sync behind it would
                ends.append(("write", journal, {"hex": bytes(28).hex()}, 0))
            for end in ends:
                with pytest.raises(SqlError, match="Read-only"):
                    app.ask(*end)
            assert app.ask("attempt", "COMMIT", [])[0] == "error"
            app.ask("attempt", "ROLLBACK", [])
        if write_back:
            eventually(lambda: role(old) == "replica", what="it has another mount")
            old.wait_ready()
            app.disconnect()
            eventually(partial(opened, app, old), what="the new mount is there")
        count = ("SELECT count(*) FROM bulk", [])
        eventually(lambda: app.ask("attempt", *count) == ["rows", [[1]]], what="it is rolled back")
    assert cluster.settle() == []
    with cluster.primary.connect(DATABASE) as app:
        assert app.one("SELECT count(*) FROM bulk") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="sees where in the kernel a process waits")
def test_commit_when_it_is_published_after_a_hand_over_then_it_is_kept_as_diverged(
    new_electorate: Callable[..., Electorate],
) -> None:
    """In WAL mode it ends in shared memory: the application was stopped just before."""
    cluster = new_electorate()
    old = cluster.primary
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE late(x)", "INSERT INTO late VALUES('early')")
        cluster.agree(DATABASE)
        stop_before_publishing(old, app, "INSERT INTO late VALUES('published too late')")
        done = litemq("handoff", "--config", old.config_path)
        assert done.code == 0, done
        eventually(lambda: role(old) == "replica", what="the old one is a replica")
        os.kill(app.pid, signal.SIGCONT)
        assert app.finish() == []
        old.announce(*RETURN)
        cluster.write(cluster.wait_primary(other_than=old))
        cluster.settle()
        assert app.sql("SELECT x FROM late") == [("early",)]
    assert any(b"published too late" in page for page in diverged_pages(old))


def test_database_when_noise_was_written_over_it_and_another_serves_then_it_is_repaired(
    new_electorate: Callable[..., Electorate], tmp_path: Path
) -> None:
    """The log has its last state, and so has the successor."""
    cluster = new_electorate()
    old = cluster.primary
    old.announce("overwritten by what is none", *RETURN)
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE kept(x)", "INSERT INTO kept VALUES(1)")
    cluster.agree(DATABASE)
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(30000))
    succeed("cp", noise, old.mount / DATABASE, directory=tmp_path)
    eventually(lambda: old.logged("overwritten by what is none"), what="the node says so")
    done = litemq("handoff", "--config", old.config_path)
    assert done.code == 0, done
    new = cluster.wait_primary(other_than=old)
    eventually(lambda: role(old) == "replica", what="the old one is a replica")
    cluster.agree(DATABASE)
    for node in (old, new):
        with node.connect(DATABASE) as reader:
            assert reader.sql("SELECT x FROM kept") == [(1,)], node.name


@pytest.mark.skipif(os.geteuid() != 0, reason="sees where in the kernel a process waits")
def test_commit_when_its_writer_died_before_publishing_then_all_nodes_have_it_or_none(
    new_electorate: Callable[..., Electorate],
) -> None:
    """SQLite's recovery makes a commit of such frames. Nobody shares the index any more, so they
    are one at once, and the next primary has it.
    """
    cluster = new_electorate()
    old = cluster.primary
    with old.connect(DATABASE) as app:
        app.script("CREATE TABLE late(x)", "INSERT INTO late VALUES('early')")
        cluster.agree(DATABASE)
        stop_before_publishing(old, app, "INSERT INTO late VALUES('never acknowledged')")
        app.kill()
    cluster.agree(DATABASE)
    done = litemq("handoff", "--config", old.config_path)
    assert done.code == 0, done
    eventually(lambda: role(old) == "replica", what="the old one is a replica")
    old.announce(*RETURN)
    cluster.write(cluster.wait_primary(other_than=old))
    cluster.settle()
    for node in cluster.nodes:
        with node.connect(DATABASE) as app:
            rows = app.sql("SELECT x FROM late")
            assert rows == [("early",), ("never acknowledged",)], node.name


def stop_before_publishing(node: Any, app: Any, statement: str) -> None:
    """Leave an application where its commit is in the WAL, and its index does not show it."""
    fuse = node.actor("fuse_capture").pid
    tail = WalTail(str(node.data_dir / "files" / f"{DATABASE}-wal"), None)
    assert tail.open()
    while tail.collect(chain=True):
        pass
    os.kill(fuse, signal.SIGSTOP)
    app.start("sql", statement, [])
    while True:
        eventually(
            lambda: "request_wait_answer" in proc.look(app.pid).frames, what="the mount is asked"
        )
        os.kill(app.pid, signal.SIGSTOP)  # when the mount has answered
        os.kill(fuse, signal.SIGCONT)
        eventually(lambda: proc.look(app.pid).state == "T", what="it is stopped")
        if tail.collect(chain=True):
            break
        os.kill(fuse, signal.SIGSTOP)
        os.kill(app.pid, signal.SIGCONT)


def depose(cluster: Electorate, old: Any) -> None:
    """Stall the election watcher of the primary until another node serves."""
    with deposing(cluster, old):
        pass
    eventually(lambda: role(old) == "replica", what="the deposed one is a replica")
    old.wait_ready()


def test_successor_when_its_mount_is_slow_then_it_serves_all_the_same(
    new_electorate: Callable[..., Electorate],
) -> None:
    """Its applier cannot let go of the files meanwhile, and the change of role waits for that."""
    cluster = new_electorate(size=2)
    (new,) = cluster.replicas
    fuse = new.actor("fuse_capture").pid
    old = cluster.primary
    os.kill(fuse, signal.SIGSTOP)
    cluster.kill(old)
    eventually(lambda: new.logged("election", state="promoting"), what="it is about to serve")
    time.sleep(1)
    os.kill(fuse, signal.SIGCONT)
    cluster.write(new)
    cluster.wait_acks(20)
    cluster.settle()


@by_both
def test_candidate_when_it_is_behind_then_the_one_that_has_everything_is_elected(
    elect: Callable[..., Electorate],
) -> None:
    """Both see the loss at the same moment, and nothing that was acknowledged is diverged."""
    cluster = elect()
    cluster.announce("can't apply")
    old = cluster.primary
    behind, ahead = cluster.replicas
    stopped = behind.kill_actor("replica_applier", signal.SIGSTOP)
    with old.connect(DATABASE) as app:  # too large to be sent without being asked for
        app.script("CREATE TABLE bulk(x)", "INSERT INTO bulk VALUES(randomblob(100000))")
    eventually(
        lambda: ahead.position(DATABASE) == old.position(DATABASE) != behind.position(DATABASE),
        what="one of two has everything",
    )
    eventually(
        lambda: standing(ahead, ahead) > standing(ahead, behind), what="and has said so to all"
    )
    cluster.kill(old)
    os.kill(stopped, signal.SIGCONT)
    assert cluster.wait_primary() is ahead
    with ahead.connect(DATABASE) as app:
        assert app.one("SELECT count(*) FROM bulk") == 1
    cluster.write()
    assert cluster.settle() == []


def standing(asked: Any, node: Any) -> int:
    """How many transactions a node has, as the lease service tells it to another."""
    done = litemq("cluster", "--config", asked.config_path, "--format", "json")
    return int(next(each["txids"] for each in json.loads(done.out) if each["node"] == node.name))


@by_file_first
def test_deposed_when_it_returns_then_only_pages_that_differ_are_repaired(
    elect: Callable[..., Electorate],
) -> None:
    """A large database, and a few rows that only the killed primary had."""
    cluster = elect()
    old = cluster.primary
    with old.connect(DATABASE) as app:
        app.script(
            "CREATE TABLE bulk(x)",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) "
            "INSERT INTO bulk SELECT randomblob(3000) FROM n",
        )
    cluster.agree_now()
    replicas = cluster.replicas
    old.kill_actor("stream_publisher", signal.SIGSTOP)
    cluster.write(old)
    cluster.wait_acks(20)
    cluster.kill(old)
    cluster.write(*replicas)
    cluster.wait_acks(20)
    cluster.quiet()  # a fast machine would write hundreds of pages while the node starts
    old.start()
    eventually(lambda: old.logged("^repaired$", db=DATABASE), what="it is repaired")
    cluster.write(*replicas)
    diverged = cluster.settle()
    assert diverged
    (repair,) = old.logged("^repaired$", db=DATABASE)
    assert repair["pages"] < 100
