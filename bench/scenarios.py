"""What is done to a primary in a failover trial, and what brings its node back.

A scenario strikes, and later undoes it; it never measures. Always true: after `undo` the node runs
and can be reached.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from litemq.bench.hosts import Network
from litemq.bench.local_node import LocalNode
from litemq.errors import LiteMQError

#: a successor must have been heard of; it has just been started, perhaps
HAND_OVER_S = 10.0
_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Scenario:
    """`graceful`: nothing is cut short, so what counts is how long nobody takes a write."""

    name: str
    title: str
    graceful: bool
    strike: Callable[[LocalNode], None]
    undo: Callable[[LocalNode], None]


def _nothing(_node: LocalNode) -> None:
    pass


def _come_back(node: LocalNode) -> None:
    """Start it once it has ended."""
    code = node.wait_end()
    if code:
        raise LiteMQError(f"node {node.name} ended with {code}; {node.words()}")
    node.start()


def _hand_over(node: LocalNode) -> None:
    """As an operator asks for it. Raises LiteMQError when it is refused all the time."""
    words = [sys.executable, "-m", "litemq", "handoff", "--config", str(node.config.path)]
    deadline_s = time.monotonic() + HAND_OVER_S
    while True:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if not done.returncode:
            return
        if time.monotonic() > deadline_s:
            raise LiteMQError(f"{node.name}: {done.stderr.strip()}")
        time.sleep(_RETRY_S)


KILL = Scenario("kill", "kill -9 of all its processes", False, LocalNode.kill, LocalNode.start)
CRASH = Scenario("crash", "kill -9 of its supervisor", False, LocalNode.crash, LocalNode.start)
STOP = Scenario("stop", "SIGSTOP of all its processes", False, LocalNode.freeze, LocalNode.wake)
HANDOFF = Scenario("handoff", "litemq handoff", True, _hand_over, _nothing)
SIGTERM = Scenario("sigterm", "SIGTERM", True, LocalNode.terminate, _come_back)
CABLE = "cable"
NAMES = (KILL.name, CRASH.name, STOP.name, CABLE, HANDOFF.name, SIGTERM.name)


def unplugged(network: Network) -> Scenario:
    """Its host's cable is pulled: it reaches neither Consul nor its peers, and nobody is told."""
    return Scenario(
        CABLE,
        "its cable pulled",
        False,
        lambda node: network.unplug(node.name),
        lambda _node: network.heal(),
    )
