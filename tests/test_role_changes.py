"""What a node tells others of its role: the hook and the command, in nodes that elect."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import litemq, refused
from electorate import RETURN, Electorate
from leftovers import has_ended
from nodes import Cluster, Node
from waiting import eventually

from litemq import config as configuration
from litemq.actors.role_hook import GRACE_S
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Sender

pytestmark = pytest.mark.fuse

HOOK = """
import dataclasses
import json
import os
import pathlib
import time

HERE = pathlib.Path("{directory}")
calls = 0


def changed(change):
    global calls
    calls += 1
    entry = dataclasses.asdict(change) | {"calls": calls, "pid": os.getpid()}
    with open(HERE / f"told-{change.node}", "a") as file:
        print(json.dumps(entry), file=file)
    print(f"told {change.node} {change.role}")
    while (HERE / f"hold-{change.node}").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def electorate(new_electorate: Callable[..., Electorate]) -> Electorate:
    """Two nodes with a hook; they do not run yet."""
    cluster = new_electorate(size=0, start=False)
    (cluster.directory / "hooks.py").write_text(HOOK.replace("{directory}", str(cluster.directory)))
    cluster.sections["election"] |= {"on-change": "../hooks.py:changed"}  # type: ignore[operator]
    for _ in range(2):
        cluster.add()
    return cluster


def told(cluster: Electorate, node: Node) -> list[dict[str, Any]]:
    path = cluster.directory / f"told-{node.name}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def short(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["role"], each["primary"]) for each in entries]


def hand_over(node: Node, *to: str) -> None:
    """Until it is not refused: its replicas may not have connected yet."""
    eventually(lambda: litemq("handoff", *to, "--config", node.config_path).code, until=0)


def test_hook_when_the_primary_is_moved_then_both_nodes_are_told(electorate: Electorate) -> None:
    """At the start and at every change, with the values that hold; what it prints is in the log."""
    old, new = electorate.nodes
    old.start()
    new.start()
    eventually(lambda: short(told(electorate, old)), until=[("primary", old.name)])
    eventually(lambda: short(told(electorate, new)), until=[("replica", old.name)])
    hand_over(old)
    seen_by_old = [("primary", old.name), ("replica", ""), ("replica", new.name)]
    eventually(lambda: short(told(electorate, old))[-1:], until=seen_by_old[-1:])
    eventually(
        lambda: short(told(electorate, new)),
        until=[("replica", old.name), ("primary", new.name)],
    )
    # who is told quickly may know the successor at once
    assert short(told(electorate, old)) in (seen_by_old, [seen_by_old[0], seen_by_old[2]])
    for node in (old, new):
        status = node.status()
        assert status is not None
        entries = told(electorate, node)
        last = entries[-1]
        assert last["node"] == node.name
        assert last["epoch"] == status.epoch
        assert last["address"] == new.address
        assert last["why"]
        assert [each["calls"] for each in entries] == list(range(1, len(entries) + 1))
        assert len({each["pid"] for each in entries}) == 1
        times = [each["since_us"] for each in entries]
        assert times == sorted(times)
        assert [each["text"] for each in node.logged("hook printed")] == [
            f"told {node.name} {each['role']}" for each in entries
        ]
        # the node's stdout and stderr, all of it
        assert all(json.loads(line) for line in node.stderr().splitlines())


def test_hook_when_it_hangs_then_the_election_goes_on_and_the_newest_is_told(
    electorate: Electorate,
) -> None:
    """The role changes twice during one call; the stop kills what does not return."""
    old, new = electorate.nodes
    hold = electorate.directory / f"hold-{old.name}"
    hold.touch()
    old.start()
    new.start()
    eventually(lambda: told(electorate, old))
    hand_over(old)
    electorate.wait_primary(other_than=old)
    eventually(lambda: old.logged("node is ready", role="replica") or role(old) == "replica")
    hand_over(new)
    electorate.wait_primary(other_than=new)
    assert short(told(electorate, old)) == [("primary", old.name)]
    eventually(lambda: old.logged("too slow for a change", role="replica"))
    hold.unlink()
    eventually(lambda: short(told(electorate, old)), until=[("primary", old.name)] * 2)
    assert told(electorate, old)[1]["epoch"] > told(electorate, old)[0]["epoch"]
    eventually(lambda: short(told(electorate, new))[-1], until=("replica", old.name))
    eventually(lambda: len(new.logged("hook returned")), until=len(told(electorate, new)))
    (electorate.directory / f"hold-{new.name}").touch()
    hand_over(old)
    eventually(lambda: short(told(electorate, new))[-1], until=("primary", new.name))
    new.announce("the hook does not return")
    pid = told(electorate, new)[-1]["pid"]
    new.stop()
    assert has_ended(pid)
    (killed,) = new.logged("the hook does not return")
    assert killed["limit_s"] == GRACE_S  # and not the limit of a call


def role(node: Node) -> str:
    status = node.status()
    return status.role if status is not None and status.ready else ""


def test_hook_when_its_node_is_killed_then_it_dies_with_it(electorate: Electorate) -> None:
    """kill -9 of the supervisor alone, in the middle of a call; started again, it is told anew."""
    node = electorate.nodes[0]
    (electorate.directory / f"hold-{node.name}").touch()
    node.start()
    (entry,) = eventually(lambda: told(electorate, node))
    assert not has_ended(entry["pid"])
    assert "litemq: hook" in Path(f"/proc/{entry['pid']}/cmdline").read_text()
    node.kill()  # and waits until no process of the node is left
    assert has_ended(entry["pid"])
    (electorate.directory / f"hold-{node.name}").unlink()
    node.announce(*RETURN)
    node.start()  # as a primary that takes no writes, which is no role to tell of
    eventually(lambda: len(told(electorate, node)), until=2)
    eventually(lambda: node.logged("hook returned"))
    again = told(electorate, node)
    assert short(again) == [("primary", node.name)] * 2
    assert again[1]["epoch"] > again[0]["epoch"]
    assert again[1]["calls"] == 1


def test_order_when_it_was_meant_for_the_applier_before_then_nothing_is_said(
    new_electorate: Callable[..., Electorate],
) -> None:
    """It was on its way to where the log writer listens now; a warning fails this test."""
    node = new_electorate(size=1).nodes[0]
    endpoints = Endpoints(configuration.load(node.config_path).run_dir)
    before = node.actor("log_writer").pid
    sender = Sender(endpoints.capture)
    sender.send(m.Follow("other", "tcp://127.0.0.1:1", 1))
    sender.send(m.CompleteLog(endpoints.control, 1, primary=True))
    sender.send(m.Barrier(7, endpoints.control))  # of the same socket, so it comes after them
    sender.close()
    with node.connect("a.db") as app:
        app.sql("CREATE TABLE t(x)")
    assert node.actor("log_writer").pid == before


def test_hook_when_the_primary_is_named_then_it_is_told_of_it_once(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A primary when it serves, a replica when it has heard it."""
    cluster = new_cluster(replicas=0, plain=1, start=False)
    for node in cluster.nodes:
        (node.directory / "hooks.py").write_text(
            "def changed(change):\n    print(change.role, change.primary, change.address)\n"
        )
        node.configure(cluster.primary.address, {"election": {"on-change": "hooks.py:changed"}})
    cluster.start()
    name, address = cluster.primary.name, cluster.primary.address
    for node, said in zip(cluster.nodes, ("primary", "replica"), strict=True):
        eventually(lambda node=node: node.logged("hook returned"))
        assert [e["text"] for e in node.logged("hook printed")] == [f"{said} {name} {address}"]


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("hooks.py", "must be FILE:FUNCTION"),
        ("none.py:changed", "none.py can't be read"),
        ("hooks.py:other", 'has no function "other"'),
    ],
)
def test_up_when_the_hook_is_wrong_then_one_line_says_so_and_nothing_runs(
    new_cluster: Callable[..., Cluster], hook: str, said: str
) -> None:
    """Exit code 2, like every mistake in the configuration."""
    node = new_cluster(replicas=0, start=False).primary
    (node.directory / "hooks.py").write_text("print('loaded')\ndef changed(change): pass\n")
    node.configure(node.address, {"election": {"on-change": hook}})
    done = litemq("up", "--config", node.config_path)
    refused(done, 2, f"{node.config_path}: [election] on-change: ", said)
    assert done.out == ""
    assert not node.log()


COMMAND = """
import signal, sys
def tell(word):
    with open(sys.argv[1], "a") as file:
        print(word, file=file)
def term(*_):
    tell("term")
    sys.exit(0)
signal.signal(signal.SIGTERM, term)
signal.signal(signal.SIGHUP, lambda *_: tell("hup"))
tell("start")
while True:
    signal.pause()
"""


def test_command_when_the_role_changes_then_it_gets_what_the_key_says(
    new_electorate: Callable[..., Electorate],
) -> None:
    """Three nodes, a policy each: every one becomes the primary and a replica again."""
    cluster = new_electorate(size=0, start=False)
    policies = ("none", "restart", "SIGHUP")
    nodes = [cluster.add(app={"on-role-change": policy}) for policy in policies]
    files = {node.name: cluster.directory / f"told-{node.name}" for node in nodes}

    def lines(node: Node) -> list[str]:
        path = files[node.name]
        return path.read_text().splitlines() if path.exists() else []

    for node in nodes:
        node.start(
            command=[sys.executable, "-c", COMMAND, str(files[node.name])],
        )
        eventually(lambda node=node: lines(node), what=f"the command of {node.name} runs")
    first = [lines(node) for node in nodes]
    none, restart, hup = nodes
    for source, target in ((none, restart), (restart, hup), (hup, none)):
        hand_over(source, "--to", target.name)
        eventually(lambda target=target: role(target), until="primary")
        if target is restart:
            eventually(lambda: len(lines(restart)), until=3)
    eventually(lambda: len(lines(restart)), until=5)
    eventually(lambda: len(lines(hup)), until=3)
    assert lines(none) == first[0]
    assert lines(restart) == ["start", "term", "start", "term", "start"]
    assert lines(hup)[1:] == ["hup", "hup"]
    for node in (restart, hup, none):  # the primary last: its end would change another's role
        node.send_signal(signal.SIGTERM)
        assert node.wait() == 0
        assert lines(node)[-1] == "term"
