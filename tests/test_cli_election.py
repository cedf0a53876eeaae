"""`litemq handoff`, `promote` and `cluster` on nodes that elect, and what they say to those who
do not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commands import litemq, refused
from electorate import DATABASE, Electorate
from nodes import Cluster, Node
from waiting import eventually

pytestmark = pytest.mark.fuse


def of(node: Node, *words: str) -> Any:
    """Run a command for that node."""
    return litemq(words[0], "--config", node.config_path, *words[1:])


def members(node: Node) -> dict[str, dict[str, Any]]:
    done = of(node, "cluster", "--format", "json")
    assert done.code == 0, done
    return {each["node"]: each for each in json.loads(done.out)}


def roles(node: Node) -> list[str]:
    return sorted(each["role"] for each in members(node).values())


def named(node: Node) -> str:
    """Who `.primary` in its mount says is the primary."""
    with node.connect(DATABASE) as app:
        text = app.ask("read", str(node.mount / ".primary"))
    return str(text.decode().split()[0])


def test_commands_when_nodes_elect_then_the_primary_moves_as_told(
    new_electorate: Callable[..., Electorate],
) -> None:
    """By name, to whoever is furthest, and by asking for it; refusals change nothing."""
    cluster = new_electorate()
    bystander = cluster.add(election={**cluster.sections["election"], "candidate": False})
    bystander.start()
    cluster.agree(DATABASE)
    first, other = cluster.primary, cluster.replicas[0]

    eventually(lambda: len(members(bystander)) == 4, what="all are known, on any node")
    eventually(lambda: roles(other) == ["primary", *["replica"] * 3], what="and what they are")
    assert [name for name, each in members(other).items() if not each["candidate"]] == [
        bystander.name
    ]
    assert f"\n{first.name}  " in of(other, "cluster").out

    refused(of(first, "handoff", "--to", "nobody"), 1, "nobody is not a member, or not alive")
    refused(of(first, "handoff", "--to", bystander.name), 1, f"{bystander.name} is no candidate")
    refused(of(other, "handoff"), 1, first.name)
    refused(of(bystander, "promote"), 1, f"{bystander.name} is no candidate")
    assert cluster.primary is first

    done = of(first, "handoff", "--to", other.name)
    assert (done.code, done.out) == (0, "handed over\n")
    assert cluster.wait_primary(other_than=first) is other
    for node in (first, other, bystander):
        eventually(lambda node=node: named(node) == other.name, what="`.primary` follows")
    done = of(first, "promote")
    assert (done.code, done.out) == (0, "promoted\n")
    eventually(lambda: cluster.primary is first, what="it has the lease again")
    assert of(first, "promote").code == 0  # it is one
    eventually(
        lambda: of(first, "handoff").code, until=0, what="another is connected, and takes it"
    )
    new = cluster.wait_primary(other_than=first)
    assert new is not bystander
    shown = json.loads(of(new, "status", "--format", "json").out)
    assert shown["role"] == "primary"
    assert shown["why"]

    new.stop()
    eventually(lambda: not members(bystander)[new.name]["alive"], what="it is not there")
    cluster.wait_primary(other_than=new)


def test_commands_when_the_primary_is_fixed_then_they_say_so(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Nothing is waited for."""
    cluster = new_cluster()
    node = cluster.primary
    for words in (("handoff",), ("promote",), ("cluster",)):
        refused(of(node, *words), 1, "[election] kind")
