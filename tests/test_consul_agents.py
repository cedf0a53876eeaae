"""Three Consul servers, and an agent for each node: it leaves, is upgraded, is renamed, dies.

Whatever becomes of it, no two nodes ever serve (`settle`), and writes go on when Consul does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from commands import litemq
from consul_cluster import ConsulCluster
from consul_server import ConsulServer
from electorate import RETURN, Electorate, by_consul
from nodes import Node
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.consul]

RARELY = pytest.mark.torture
AWAY = ("the lease service refuses",)
#: what Consul takes for a new leader and for members that come and go, and much more
CONSUL_S = 60.0

_keys = itertools.count(1)


class World:
    """Nodes under load, each with a Consul agent of its own."""

    def __init__(
        self, consuls: ConsulCluster, cluster: Electorate, agents: list[ConsulServer]
    ) -> None:
        self.consuls, self.cluster = consuls, cluster
        self._agents = dict(zip(cluster.nodes, agents, strict=True))

    def agent(self, node: Node) -> ConsulServer:
        return self._agents[node]

    def make_primary(self, agent: ConsulServer) -> Node:
        """Have the node of that agent be the primary."""
        (node,) = [each for each, its in self._agents.items() if its is agent]
        if self.cluster.primary is not node:
            done = litemq("promote", "--config", node.config_path)
            assert done.code == 0, done
            eventually(lambda: self.cluster.primary is node, what=f"{node.name} is the primary")
        self.cluster.wait_acks(30)
        return node

    def other_than_leader(self) -> ConsulServer:
        leader = self.consuls.leader
        return next(each for each in self._agents.values() if each is not leader)

    def goes_on(self) -> None:
        """Somebody takes writes."""
        self.cluster.wait_acks(50, timeout_s=CONSUL_S)


@pytest.fixture
def new_world(
    new_consuls: Callable[..., ConsulCluster], new_electorate: Callable[..., Electorate]
) -> Callable[..., World]:
    """Make three nodes that write and read; their agents are the servers, or clients."""

    def make(*, clients: bool = False, **options: Any) -> World:
        consuls = new_consuls(clients=3 if clients else 0, **options)
        agents = consuls.agents[-3:]
        cluster = new_electorate(by_consul("", f"litemq/agents{next(_keys)}"), size=0, start=False)
        for agent in agents:
            lease = cluster.sections["election.consul"] | {"address": agent.address}
            cluster.add(**{"election.consul": lease})
        cluster.announce(*AWAY, *RETURN)
        cluster.start()
        cluster.make_history()
        cluster.write()
        cluster.read()
        cluster.wait_acks(100)
        return World(consuls, cluster, agents)

    return make


@pytest.mark.parametrize("clients", [False, pytest.param(True, marks=RARELY)])
def test_machine_when_it_dies_with_its_agent_then_another_serves(
    new_world: Callable[..., World], *, clients: bool
) -> None:
    """Nobody counts the TTL of its check any more, and these agents never miss each other: that
    its renewals have stopped is to be seen in the key.
    """
    world = new_world(clients=clients, settings={"gossip_lan": {"probe_interval": "1h"}})
    cluster = world.cluster
    old = cluster.primary if clients else world.make_primary(world.other_than_leader())
    agent = world.agent(old)
    cluster.kill(old)
    agent.kill()
    cluster.wait_acks(50, nodes=[node for node in cluster.nodes if node is not old])
    agent.start()
    cluster.settle()


@RARELY
@pytest.mark.parametrize("how", ["leave", "kill"])
def test_client_agent_of_the_primary_when_it_goes_then_another_serves(
    new_world: Callable[..., World], how: str
) -> None:
    """The node cannot renew and refuses commits; when its agent is back it takes part again."""
    world = new_world(clients=True)
    old = world.cluster.primary
    agent = world.agent(old)
    getattr(agent, how)()
    world.cluster.wait_primary(other_than=old, timeout_s=CONSUL_S)
    world.goes_on()
    agent.start()
    world.goes_on()
    world.cluster.settle()


@RARELY
@pytest.mark.parametrize("leader", [True, False])
@pytest.mark.parametrize("how", ["leave", "terminate", "kill"])
def test_server_of_the_primary_when_it_goes_then_writes_go_on(
    new_world: Callable[..., World], how: str, *, leader: bool
) -> None:
    """Whether it leads the servers or not; and so they do when it is back."""
    world = new_world()
    agent = world.consuls.leader if leader else world.other_than_leader()
    world.make_primary(agent)
    getattr(agent, how)()
    world.goes_on()
    agent.start()
    eventually(world.consuls.whole, timeout_s=CONSUL_S, what="all three servers vote")
    world.goes_on()
    world.cluster.settle()


@RARELY
@pytest.mark.parametrize("how", ["leave", "terminate", "kill"])
def test_servers_when_upgraded_one_after_the_other_then_writes_go_on(
    new_world: Callable[..., World], how: str
) -> None:
    """The leader first, which is the agent of the primary, then those that follow it in both."""
    world = new_world()
    first = world.consuls.leader
    world.make_primary(first)
    for agent in [first, *(each for each in world.consuls.agents if each is not first)]:
        getattr(agent, how)()
        agent.start()
        eventually(world.consuls.whole, timeout_s=CONSUL_S, what="all three servers vote")
        world.goes_on()
    world.cluster.settle()


@RARELY
@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("rename", [True, False])
def test_agent_of_the_primary_when_it_is_another_then_writes_go_on(
    new_world: Callable[..., World], *, rename: bool, forget: bool
) -> None:
    """Under another name, with its state or without; or under its name with nothing of before.

    It has left before: Consul wants no other name from an agent that it still misses.
    """
    world = new_world(clients=True)
    agent = world.agent(world.cluster.primary)
    agent.terminate()
    if rename:
        agent.settings["node_name"] += "-renamed"
    if forget:
        agent.forget()
    agent.start()
    world.goes_on()
    eventually(world.consuls.whole, timeout_s=CONSUL_S, what="all agents take writes")
    world.goes_on()
    world.cluster.settle()
