"""Fixtures of the election's tests: leases to be closed, and what stands between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consul_server import TTL_S, ConsulServer
from lossy_proxy import LossyProxy

from litemq.election.consul_lease import ConsulLease
from litemq.election.file import FileLease
from litemq.election.lease import Identity, Lease

_numbers = itertools.count()


@pytest.fixture
def proxy(consul: ConsulServer) -> Iterator[LossyProxy]:
    made = LossyProxy(consul.address)
    yield made
    made.close()


@pytest.fixture
def key() -> str:
    return f"litemq/test{next(_numbers)}"


@pytest.fixture
def close_later() -> Iterator[Callable[[Any], Any]]:
    """Leases given to it are closed when the test has ended."""
    made: list[Lease] = []

    def later(lease: Any) -> Any:
        made.append(lease)
        return lease

    yield later
    for lease in made:
        lease.close()


@pytest.fixture
def consul_lease(
    consul: ConsulServer, key: str, close_later: Callable[[Any], Any]
) -> Callable[..., ConsulLease]:
    """A node's lease on this test's key."""

    def make(
        node: str, *, cluster: str = "c", address: str = "", ttl_s: float = TTL_S,
        token: str = "", start: str = "",
    ) -> ConsulLease:  # fmt: skip
        listen = f"tcp://127.0.0.1:{node}"
        who = Identity(
            cluster=cluster, node=node, address=listen, **({"start": start} if start else {})
        )
        lease: ConsulLease = close_later(
            ConsulLease(who, address or consul.address, key, ttl_s, token)
        )
        return lease

    return make


@pytest.fixture(params=["file", pytest.param("consul", marks=pytest.mark.consul)])
def new_lease(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Lease]:
    """A node's lease of one election, by each way to elect."""
    if request.param == "consul":
        made: Callable[..., Lease] = request.getfixturevalue("consul_lease")
        return made
    close_later = request.getfixturevalue("close_later")

    def make(node: str, *, cluster: str = "c") -> Lease:
        who = Identity(cluster=cluster, node=node, address=f"tcp://127.0.0.1:{node}")
        lease: Lease = close_later(FileLease(who, tmp_path / "lock"))
        return lease

    return make
