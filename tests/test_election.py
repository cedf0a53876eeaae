"""Nodes that elect: whatever happens to the primary, another serves, and nothing is lost unsaid."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consul_server import ConsulServer
from electorate import DATABASE, RETURN, Electorate, by_consul
from waiting import eventually

pytestmark = pytest.mark.fuse

_keys = itertools.count(1)


@pytest.fixture(params=["file", pytest.param("consul", marks=pytest.mark.consul)])
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


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_primary_when_killed_under_load_then_another_serves_and_it_returns(
    elect: Callable[..., Electorate], mode: str
) -> None:
    """kill -9 of all its processes; back again, it is a replica, and keeps what only it had."""
    cluster = elect(mode=mode)
    cluster.write()
    cluster.read()
    cluster.wait_acks(200)
    old = cluster.primary
    killed_s = time.monotonic()
    cluster.kill(old)
    cluster.wait_acks(20)
    assert cluster.gap_s(killed_s) < 3
    new = cluster.wait_primary(other_than=old)
    old.start()
    cluster.wait_acks(20, nodes=[new])
    cluster.settle()
    assert cluster.primary is new
