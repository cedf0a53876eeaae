"""At no time do two nodes believe that they hold the lease, whatever is done to them and to Consul.

Nodes renew, stall, release and lose answers at random, while an operator destroys sessions, deletes
the key and deregisters services. Each writes down from when to when it would have accepted commits.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from consul_server import ConsulServer
from lossy_proxy import LossyProxy

from litemq.election import clock
from litemq.election.consul_lease import ConsulLease
from litemq.election.lease import LeaseError, LeaseLostError

pytestmark = pytest.mark.consul
TTL_S = 0.4
LASTS_S = 4.0
#: with bad luck nobody believes anything for seconds: it lasts until there is this to compare
TERMS = 3
LONGEST_S = 60.0
LOSSES = ("check/pass", "PUT /v1/txn", "release=", "GET /v1/kv", "session/create")


@dataclass(slots=True)
class Belief:
    """Commits would have been accepted in [from_s, until_s), boot clock."""

    node: str
    epoch: int
    from_s: float
    until_s: float

    @property
    def was_a_term(self) -> bool:
        """Whether it has ended, and not before it began."""
        return self.from_s < self.until_s < clock.now_s()


def live(
    lease: ConsulLease, luck: random.Random, over: threading.Event, beliefs: list[Belief]
) -> None:
    """A node that does as it should, but for its stalls."""
    while not over.is_set():
        try:
            grant = lease.acquire(0, {})
        except LeaseError:
            time.sleep(luck.random() * TTL_S / 4)
            continue
        belief = Belief(
            lease.identity.node, grant.epoch, clock.now_s() + grant.wait_s, grant.deadline_s
        )
        beliefs.append(belief)
        while clock.now_s() < belief.until_s:
            stalls = luck.random() < 0.05
            time.sleep(luck.random() * (3 * TTL_S if stalls else lease.pace_s))
            if luck.random() < 0.1:
                belief.until_s = min(belief.until_s, clock.now_s())
                with contextlib.suppress(LeaseError):
                    lease.release()
                break
            try:
                belief.until_s = lease.renew()
            except LeaseLostError:
                belief.until_s = min(belief.until_s, clock.now_s())
            except LeaseError:
                pass  # it goes on believing until its deadline


def watch(lease: ConsulLease, over: threading.Event) -> None:
    """The other thread of a node, which ends the lease of a holder that it sees stand still."""
    index = 0
    while not over.is_set():
        try:
            index = lease.watch(index, TTL_S).index
        except LeaseError:
            index = 0
            time.sleep(TTL_S / 20)


def interfere(
    consul: ConsulServer, key: str, luck: random.Random, proxies: list[LossyProxy]
) -> None:
    """One thing that goes wrong."""
    what = luck.randrange(6)
    if what <= 1:
        entry = consul.ask(f"/v1/kv/{key}")
        if entry and "Session" in entry[0]:
            consul.call("PUT", f"/v1/session/destroy/{entry[0]['Session']}")
    elif what == 2:
        consul.call("DELETE", f"/v1/kv/{key}")
    elif what == 3:
        services = [name for name in consul.ask("/v1/agent/services") if "believer" in name]
        if services:
            consul.call("PUT", f"/v1/agent/service/deregister/{luck.choice(services)}")
    else:
        luck.choice(proxies).lose = luck.choice(LOSSES) if luck.random() < 0.4 else ""


def test_belief_when_everything_goes_wrong_then_it_is_never_shared(
    consul: ConsulServer, key: str, consul_lease: Callable[..., ConsulLease]
) -> None:
    """Terms do not overlap, and their epochs are in their order."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    luck = random.Random(seed)
    proxies = [LossyProxy(consul.address) for _ in range(3)]
    beliefs: list[Belief] = []
    over = threading.Event()
    began_s = clock.now_s()
    leases = [
        consul_lease(f"believer{number}", address=proxy.address, ttl_s=TTL_S)
        for number, proxy in enumerate(proxies)
    ]
    threads = [
        threading.Thread(
            target=live, args=(lease, random.Random(luck.randrange(1 << 32)), over, beliefs)
        )
        for lease in leases
    ]
    threads += [threading.Thread(target=watch, args=(lease, over)) for lease in leases]
    try:
        for thread in threads:
            thread.start()
        while clock.now_s() < began_s + LASTS_S or (
            sum(each.was_a_term for each in beliefs) < TERMS and clock.now_s() < began_s + LONGEST_S
        ):
            time.sleep(luck.random() * TTL_S)
            interfere(consul, key, luck, proxies)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
        for proxy in proxies:
            proxy.close()
    assert len({each.epoch for each in beliefs}) == len(beliefs)
    terms = [each for each in beliefs if each.was_a_term]
    terms.sort(key=lambda each: each.from_s)
    assert len(terms) >= TERMS, "somebody was the primary now and then"
    for before, after in itertools.pairwise(terms):
        assert before.until_s <= after.from_s, (before, after)
        assert before.epoch < after.epoch, (before, after)
