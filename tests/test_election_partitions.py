"""Hosts that are cut off: from Consul, from each other, from both, in one direction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from consul_server import ConsulServer
from electorate import RETURN, Electorate, by_consul, role
from namespaces import Network
from nodes import Node
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.consul]

NODES = ("n1", "n2", "n3")
RARELY = pytest.param(False, marks=pytest.mark.torture)
CUTS = ("actor ended", "the lease service refuses")


@pytest.fixture
def network(new_network: Callable[..., Network]) -> Network:
    return new_network(*NODES, "consul")


@pytest.fixture
def cluster(
    network: Network,
    own_consul: Callable[..., ConsulServer],
    new_electorate: Callable[..., Electorate],
) -> Iterator[Electorate]:
    """Three nodes and a Consul, each on a host of its own, under load."""
    consul = own_consul(host=network.hosts["consul"])
    hosts = [network.hosts[name] for name in NODES]
    made = new_electorate(by_consul(consul.address, "litemq/parts"), hosts=hosts)
    made.announce(*CUTS, *RETURN)
    made.write()
    made.read()
    made.wait_acks(100)
    yield made
    network.heal()


def others(node: Node) -> list[str]:
    return [name for name in NODES if name != node.name]


def take_writes_elsewhere(cluster: Electorate, old: Node) -> Node:
    """Wait until another node takes writes."""
    cluster.wait_acks(30, nodes=[node for node in cluster.nodes if node is not old])
    return cluster.wait_primary(other_than=old)


def heals(cluster: Electorate, network: Network) -> None:
    """Heal, and check all."""
    network.heal()
    cluster.settle()


def test_primary_when_its_cable_is_pulled_then_another_serves(
    network: Network, cluster: Electorate
) -> None:
    """Neither Consul nor the others are there for it; it returns as a replica."""
    old = cluster.primary
    pulled_s = time.monotonic()
    network.unplug(old.name)
    new = take_writes_elsewhere(cluster, old)
    assert cluster.acks(new)[0].told_s - pulled_s < 5
    heals(cluster, network)


def test_primary_when_cut_off_from_consul_only_then_another_serves(
    network: Network, cluster: Electorate
) -> None:
    """It hears the others, and must not go on."""
    old = cluster.primary
    network.cut(old.name, "consul")
    take_writes_elsewhere(cluster, old)
    heals(cluster, network)


@pytest.mark.parametrize("outwards", [True, RARELY])
def test_primary_when_one_direction_to_consul_is_cut_then_another_serves(
    network: Network, cluster: Electorate, *, outwards: bool
) -> None:
    """What it says is lost, or what it is answered: either way it must not go on."""
    old = cluster.primary
    pair = (old.name, "consul") if outwards else ("consul", old.name)
    network.cut_one_way(*pair)
    take_writes_elsewhere(cluster, old)
    heals(cluster, network)


def test_primary_when_cut_off_from_its_peers_only_then_it_goes_on(
    network: Network, cluster: Electorate
) -> None:
    """It has the lease: its rows reach the others when they hear it again."""
    old = cluster.primary
    for name in others(old):
        network.cut(old.name, name)
    cluster.wait_acks(100, nodes=[old])
    heals(cluster, network)
    assert cluster.primary is old


@pytest.mark.torture
@pytest.mark.parametrize("outwards", [True, False])
def test_replica_when_one_direction_to_the_primary_is_cut_then_it_catches_up_later(
    network: Network, cluster: Electorate, *, outwards: bool
) -> None:
    """It does not hear the primary, or is not heard by it."""
    primary, cut = cluster.primary, cluster.replicas[0]
    pair = (cut.name, primary.name) if outwards else (primary.name, cut.name)
    network.cut_one_way(*pair)
    cluster.wait_acks(100, nodes=[primary])
    heals(cluster, network)
    assert cluster.primary is primary


@pytest.mark.torture
def test_consul_when_unplugged_then_nobody_serves_until_it_is_back(
    network: Network, cluster: Electorate
) -> None:
    """All leases end; the nodes hear each other all the time."""
    network.unplug("consul")
    eventually(
        lambda: not any(role(node) == "primary" for node in cluster.nodes), what="all leases end"
    )
    before = len(cluster.acks())
    cluster.level()
    assert len(cluster.acks()) == before
    heals(cluster, network)
