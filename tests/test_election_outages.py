"""Consul away, emptied, restarted, and names and keys that belong to others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest
from consul_server import ConsulServer
from electorate import DATABASE, RETURN, Electorate, by_consul
from nodes import Node
from sql_process import SqlError
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.consul]

RARELY = pytest.mark.torture

_keys = itertools.count(1)
AWAY = ("the lease service refuses",)


def elect(
    new_electorate: Callable[..., Electorate],
    consul: ConsulServer,
    size: int = 3,
    *,
    start: bool = True,
) -> Electorate:
    election = by_consul(consul.address, f"litemq/out{next(_keys)}")
    cluster = new_electorate(election, size=size, start=start)
    cluster.announce(*AWAY)
    return cluster


def total(node: Node) -> int:
    """What the node shows; a deposed one's mount may be another in a moment."""
    try:
        with node.connect(DATABASE) as app:
            found: int = app.one("SELECT total FROM tally")
    except SqlError as error:
        raise AssertionError(str(error)) from error
    return found


def test_consul_when_it_stops_answering_then_commits_are_refused_until_it_is_back(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate]
) -> None:
    """Reads go on, what is there is replicated, and the same primary goes on by itself."""
    consul = own_consul()
    cluster = elect(new_electorate, consul)
    cluster.write()
    cluster.read()
    cluster.wait_acks(100)
    old = cluster.primary
    with consul.stopped():
        eventually(lambda: refuses(old), what="commits are refused")
        counted = len(cluster.acks())
        cluster.level()
        for node in cluster.nodes:
            eventually(lambda node=node: total(node) >= counted, what=f"{node.name} has it")
        assert len(cluster.acks()) == counted
    cluster.wait_acks(50)
    cluster.settle()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a time namespace")
@pytest.mark.parametrize("clock", ["boottime", pytest.param("monotonic", marks=RARELY)])
def test_machine_when_its_clocks_differ_then_leases_end_in_time(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate], clock: str
) -> None:
    """As after a long sleep: whoever took one clock for the other would accept for an hour."""
    consul = own_consul()
    cluster = elect(new_electorate, consul, size=1, start=False)
    (node,) = cluster.nodes
    node.announce(*RETURN)  # a writer may be in the middle of a commit
    node.shift_clock(clock, 3600)
    cluster.start()
    cluster.make_history()
    cluster.write()
    cluster.wait_acks(100)
    with consul.stopped():
        eventually(lambda: refuses(node), what="commits are refused")
    cluster.wait_acks(50)
    assert cluster.settle() == []


def test_cluster_when_no_node_is_a_candidate_then_they_say_so(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate]
) -> None:
    """One line, which says what to do; a candidate that is started later serves."""
    consul = own_consul()
    cluster = elect(new_electorate, consul, size=0, start=False)
    bystander = cluster.add(election={**cluster.sections["election"], "candidate": False})
    bystander.announce(*AWAY)
    bystander.start(ready=False)
    what = "the election needs attention"
    eventually(lambda: bystander.logged(what), what="it says so")
    (told,) = bystander.logged(what)
    assert "no candidate takes the lease" in told["told"]
    assert "start a node that is a candidate" in told["told"]
    cluster.add().start()
    cluster.make_history()
    cluster.write()
    cluster.wait_acks()
    cluster.settle()
    assert len(bystander.logged(what, told=told["told"])) == 1


def refuses(node: Node) -> bool:
    """Whether the node refuses a commit, in the words of SQLite."""
    with node.connect(DATABASE) as app:
        try:
            app.sql("UPDATE tally SET total=total")
        except SqlError as error:
            return "readonly" in str(error) or "disk I/O error" in str(error)
    return False


@pytest.mark.parametrize("how", [pytest.param("restart", marks=RARELY), "empty"])
def test_consul_when_it_comes_again_then_writes_go_on_in_a_higher_epoch(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate], how: str
) -> None:
    """With its state and without it; no epoch is used twice."""
    consul = own_consul()
    cluster = elect(new_electorate, consul)
    cluster.write()
    cluster.wait_acks(100)
    getattr(consul, how)()
    cluster.wait_acks(50)
    cluster.settle()


def test_node_when_another_has_its_name_then_it_says_so_and_never_serves(
    new_electorate: Callable[..., Electorate], consul: ConsulServer
) -> None:
    """The first one goes on, when it is the primary, and when it is not."""
    cluster = elect(new_electorate, consul, size=2)
    cluster.write()
    cluster.wait_acks(50)
    twin = cluster.add(name=cluster.primary.name)
    twin.announce(*AWAY)
    twin.start(ready=False)
    eventually(lambda: twin.logged(AWAY[0]), what="it says so")
    (told, *_) = twin.logged(AWAY[0])
    assert "give one of the two another" in told["reason"], told
    cluster.wait_acks(50)
    twin.stop()
    cluster.nodes.remove(twin)
    cluster.wait_acks(20)
    assert twin.close() == []
    cluster.settle()


def test_key_when_another_cluster_holds_it_then_the_node_says_so_and_never_serves(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate]
) -> None:
    """A node that had been in another cluster is pointed to the wrong key."""
    consul = own_consul()
    one, other = elect(new_electorate, consul, size=1), elect(new_electorate, consul, size=1)
    one.write()
    one.wait_acks()
    (stranger,) = other.nodes
    stranger.stop()
    stranger.configure("", other.sections | {"election.consul": one.sections["election.consul"]})
    stranger.start(ready=False)
    eventually(lambda: stranger.logged(AWAY[0]), what="it says so")
    assert "cluster" in stranger.logged(AWAY[0])[0]["reason"]
    one.wait_acks()
    assert not other.acks()
    one.settle()


def test_node_when_it_is_killed_and_consul_hangs_then_nothing_of_it_stays(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate]
) -> None:
    """Whoever would give its lease back gives up, and the lease runs out; then it serves again."""
    consul = own_consul()
    cluster = elect(new_electorate, consul, size=1)
    cluster.announce(*RETURN)
    cluster.write()
    cluster.wait_acks()
    (node,) = cluster.nodes
    with consul.stopped():
        node.kill()
        assert not node.logged("the node has died")
        node.start(ready=False)
    cluster.wait_acks()
    cluster.settle()


def test_node_when_consul_is_dead_then_it_stops_well(
    own_consul: Callable[..., ConsulServer], new_electorate: Callable[..., Electorate]
) -> None:
    """Nobody can be told; the lease ends by itself."""
    consul = own_consul()
    cluster = elect(new_electorate, consul, size=1)
    consul.kill()
    (node,) = cluster.nodes
    node.stop()
    assert not node.logged("the election does not let go")
