"""The lease in a real Consul: what ends a session, what a lost answer leaves, what only grows."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable

import msgspec
import pytest
from consul_server import TTL_S, ConsulServer
from lossy_proxy import LossyProxy
from waiting import eventually

from litemq.election import clock
from litemq.election.consul import ConsulAgent
from litemq.election.consul_lease import CALL_S, ConsulLease
from litemq.election.lease import (
    Grant,
    LeaseDeniedError,
    LeaseHeldError,
    LeaseLostError,
    LeaseUnavailableError,
    Member,
    OtherClusterError,
    View,
)

pytestmark = pytest.mark.consul
NewLease = Callable[..., ConsulLease]

RULES = """
key_prefix "%s" { policy = "write" }
service "litemq" { policy = "write" }
session_prefix "" { policy = "write" }
node_prefix "" { policy = "read" }
"""


def session_of(consul: ConsulServer, key: str) -> str:
    entry = consul.ask(f"/v1/kv/{key}")
    return str(entry[0].get("Session", "")) if entry else ""


def member(lease: ConsulLease, **fields: object) -> Member:
    who = lease.identity
    rest = {"role": "replica", "epoch": 0, "since_ms": 1} | fields
    values = msgspec.to_builtins(who) | rest
    return msgspec.convert(values, Member)


def test_holder_when_it_falls_silent_then_the_ttl_frees_the_lease(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """Nobody gets the lease before the deadline; soon after it anybody does, without a wait."""
    a, b = consul_lease("a"), consul_lease("b")
    grant = a.acquire(0, {})
    deadline_s = a.renew()
    view = b.watch(0, 0)
    assert view.holder is not None
    while view.holder is not None:
        with pytest.raises(LeaseHeldError):
            b.acquire(0, {})
        view = b.watch(view.index, 10)
    freed_s = clock.now_s()
    assert deadline_s < freed_s < deadline_s + 10 * TTL_S
    assert view.safe_in_s == 0
    after = b.acquire(0, {})
    assert after.wait_s == 0
    assert after.epoch > grant.epoch
    with pytest.raises(LeaseLostError):
        a.renew()


def test_holder_when_it_only_announces_then_its_session_lives(consul_lease: NewLease) -> None:
    """Announcing keeps a node alive, and so what it holds, without moving the deadline."""
    a, b = consul_lease("a"), consul_lease("b")
    grant = a.acquire(0, {})
    eventually(lambda: a.announce(member(a)) and clock.now_s() > grant.deadline_s + TTL_S)
    with pytest.raises(LeaseHeldError):
        b.acquire(0, {})
    assert a.renew() > grant.deadline_s


def test_view_when_it_is_old_then_what_stands_now_counts(consul_lease: NewLease) -> None:
    """A node that saw the lease free meanwhile gets neither what is held nor an epoch of before."""
    a, b = consul_lease("a"), consul_lease("b")
    epochs = [a.acquire(0, {}).epoch]
    a.release()
    assert b.watch(0, 0).holder is None
    epochs.append(a.acquire(0, {}).epoch)
    with pytest.raises(LeaseHeldError):
        b.acquire(0, {})
    a.release("b")
    assert b.watch(0, 0).last is not None
    epochs.append(a.acquire(0, {}).epoch)
    a.release("b")
    epochs.append(b.acquire(0, {}).epoch)
    assert epochs == sorted(set(epochs))


def test_session_when_it_is_destroyed_by_hand_then_a_successor_waits(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """The holder may go on believing for a TTL, so whoever is next is told to wait that long."""
    a, b = consul_lease("a"), consul_lease("b")
    a.acquire(0, {})
    deadline_s = a.renew()
    consul.call("PUT", f"/v1/session/destroy/{session_of(consul, key)}")
    view = b.watch(0, 0)
    assert view.holder is None
    assert view.safe_in_s == TTL_S
    grant = b.acquire(0, {})
    assert clock.now_s() + grant.wait_s > deadline_s
    with pytest.raises(LeaseLostError, match="session has ended"):
        a.renew()


def test_key_when_it_is_deleted_by_hand_then_the_epoch_still_grows(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """Consul's index carries the epoch on; the holder notices, and nobody serves too early."""
    a, b = consul_lease("a"), consul_lease("b")
    epochs = [a.acquire(0, {}).epoch]
    for _ in range(3):
        consul.call("DELETE", f"/v1/kv/{key}")
        with pytest.raises(LeaseLostError, match="deleted"):
            a.renew()
        grant = b.acquire(0, {})
        assert grant.wait_s == TTL_S
        a, b = b, a
        epochs.append(grant.epoch)
    assert epochs == sorted(set(epochs))


def test_key_when_it_is_overwritten_by_hand_then_the_holder_puts_it_right(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """Consul's locks bind only those who ask; the claim is back with the next renewal."""
    a, b = consul_lease("a"), consul_lease("b")
    grant = a.acquire(0, {})
    consul.call("PUT", f"/v1/kv/{key}", b"\xff not a claim")
    with pytest.raises(OtherClusterError, match="no LiteMQ wrote") as refused:
        b.watch(0, 0)
    with pytest.raises(OtherClusterError):
        b.acquire(0, {})
    a.renew()
    holder = b.watch(refused.value.index, 10).holder
    assert holder is not None
    assert holder.epoch == grant.epoch


@pytest.mark.parametrize("value", [b"", b"null", b"{}", b"\x00\xff", b'{"format":99}'])
def test_key_when_it_holds_something_else_then_it_is_left_alone(
    consul_lease: NewLease, consul: ConsulServer, key: str, value: bytes
) -> None:
    """What nobody of this cluster wrote is never overwritten."""
    consul.call("PUT", f"/v1/kv/{key}", value)
    with pytest.raises(OtherClusterError):
        consul_lease("a").acquire(0, {})
    assert consul.call("GET", f"/v1/kv/{key}?raw") == value


def test_service_when_it_is_deregistered_then_the_lease_is_lost_and_can_be_had_again(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """A new life is begun, with a service, a check and a session of its own."""
    a = consul_lease("a")
    first = a.acquire(0, {})
    assert a.announce(member(a))
    holder = a.watch(0, 0).holder
    assert holder is not None
    consul.call("PUT", f"/v1/agent/service/deregister/{holder.witness}")
    with pytest.raises(LeaseLostError):
        a.renew()
    assert a.announce(member(a))
    assert [each.alive for each in a.members()] == [True]
    assert a.acquire(0, {}).epoch > first.epoch
    a.renew()


def test_session_when_it_is_lost_then_the_announcement_comes_back(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """A member whose session was destroyed is alive again as soon as it says so again."""
    a = consul_lease("a")
    assert a.announce(member(a))
    consul.call("PUT", f"/v1/session/destroy/{session_of(consul, key + '/nodes/a')}")
    assert [each.alive for each in a.members()] == [False]
    assert a.announce(member(a))
    assert [each.alive for each in a.members()] == [True]


def test_members_when_one_dies_then_it_stays_listed(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """A node that falls silent is not alive after a TTL; strange entries are left out."""
    a, b = consul_lease("a"), consul_lease("b")
    a.announce(member(a))
    b.announce(member(b))
    consul.call("PUT", f"/v1/kv/{key}/nodes/strange", b"?")

    def alive() -> list[bool]:
        b.announce(member(b))
        return [each.alive for each in b.members()]

    assert alive() == [True, True]
    assert eventually(alive, until=[False, True])


def test_node_when_it_starts_again_at_once_then_it_is_no_duplicate(consul_lease: NewLease) -> None:
    """The former life of a node holds its name and its lease for a TTL, not longer."""
    former, new = consul_lease("a"), consul_lease("a")
    former.acquire(0, {})
    former.announce(member(former))
    with pytest.raises(LeaseHeldError, match='"a"'):
        new.acquire(0, {})
    assert not new.announce(member(new))
    assert eventually(lambda: new.announce(member(new)))
    assert new.acquire(0, {}).wait_s == 0


def test_former_lease_when_it_is_given_back_then_a_successor_does_not_wait(
    consul_lease: NewLease,
) -> None:
    """By the process that knows of it, for the epoch that it means; its name is free, too."""
    former, other = consul_lease("a"), consul_lease("b")
    epoch = former.acquire(0, {}).epoch
    former.announce(member(former))
    # the first holder of a key waits, and says so as long as it does
    assert eventually(lambda: former.renew() and not other.watch(0, 0).last.wait_s)
    namesake, new = consul_lease("a"), consul_lease("a", start=former.identity.start)
    namesake.give_back(epoch)
    new.give_back(epoch - 1)
    with pytest.raises(LeaseHeldError):
        other.acquire(0, {})
    new.give_back(epoch)
    view = other.watch(0, 0)
    assert view.holder is None
    assert (view.last.released, view.safe_in_s) == (True, 0)
    assert new.announce(member(new))
    grant = other.acquire(0, {})
    assert grant.wait_s == 0
    assert grant.epoch > epoch
    with pytest.raises(LeaseLostError):
        former.renew()
    new.give_back(epoch)
    assert other.renew(), "the lease of another is left alone"


def test_renewal_when_it_comes_late_then_it_does_not_count(
    consul_lease: NewLease, proxy: LossyProxy
) -> None:
    """An answer after the deadline may belong to a check whose end is on its way already."""
    a = consul_lease("a", address=proxy.address)
    deadline_s = a.acquire(0, {}).deadline_s
    proxy.lose, proxy.late = "check/pass", True

    def renewed() -> float:
        try:
            return a.renew()
        except LeaseUnavailableError:
            return 0.0

    with pytest.raises(LeaseLostError, match="in time"):
        eventually(renewed)
    assert clock.now_s() >= deadline_s
    assert clock.now_s() < deadline_s + TTL_S


def test_acquire_when_the_answer_is_lost_then_the_lease_is_found(
    consul_lease: NewLease, proxy: LossyProxy
) -> None:
    """The lock was got, though nobody said so: reading the key tells, and it is held."""
    a, b = consul_lease("a", address=proxy.address), consul_lease("b")
    proxy.lose = "PUT /v1/txn"
    grant = a.acquire(0, {})
    assert proxy.lost == [200]
    proxy.lose = ""
    with pytest.raises(LeaseHeldError) as refused:
        b.acquire(0, {})
    assert refused.value.holder.epoch == grant.epoch
    a.renew()


def test_renewal_when_the_answer_is_lost_then_the_next_one_counts(
    consul_lease: NewLease, proxy: LossyProxy, consul: ConsulServer, key: str
) -> None:
    """The key was written, though nobody said so: it is the holder's, and it goes on from there."""
    a = consul_lease("a", address=proxy.address)
    deadline_s = a.acquire(0, {}).deadline_s
    proxy.lose = "PUT /v1/txn"
    (before,) = consul.ask(f"/v1/kv/{key}")
    with pytest.raises(LeaseUnavailableError):
        a.renew()
    proxy.lose = ""
    (after,) = consul.ask(f"/v1/kv/{key}")
    assert after["ModifyIndex"] > before["ModifyIndex"]
    assert a.renew() > deadline_s


def test_holder_when_its_renewals_stop_then_a_watcher_ends_its_lease(
    consul_lease: NewLease, consul: ConsulServer, key: str
) -> None:
    """As when a machine dies with its agent: the session lives on, and nobody believes any more."""
    a, b = consul_lease("a"), consul_lease("b")
    epoch = a.acquire(0, {}).epoch
    # the first holder of a key waits, and is over with it when its claim has stood still for a TTL
    assert b.watch(0, 0).last.wait_s
    deadline_s = a.renew()
    session = session_of(consul, key)
    view = b.watch(0, 0)
    while view.holder is not None:
        assert a.announce(member(a)), "the session of the holder lives"
        view = b.watch(view.index, TTL_S / 4)
    assert clock.now_s() > deadline_s
    assert (view.last.released, view.safe_in_s) == (True, 0)
    assert session not in consul.sessions()
    with pytest.raises(LeaseLostError, match="session has ended"):
        a.renew()
    grant = b.acquire(0, {})
    assert grant.wait_s == 0
    assert grant.epoch > epoch


def test_holder_when_it_renews_then_no_watcher_ends_its_lease(consul_lease: NewLease) -> None:
    """However often it is looked at: what others see of it is that its claim changes."""
    a, b = consul_lease("a"), consul_lease("b")
    first = a.acquire(0, {})
    view = b.watch(0, 0)
    while clock.now_s() < first.deadline_s + 3 * TTL_S:
        a.renew()
        view = b.watch(view.index, TTL_S / 6)
        assert view.holder is not None
        assert view.holder.epoch == first.epoch


def test_watch_when_only_the_renewals_change_then_it_goes_on_waiting(
    consul_lease: NewLease,
) -> None:
    """A renewal is no news for who waits; the release is."""
    a, b = consul_lease("a"), consul_lease("b")
    a.acquire(0, {})
    assert eventually(lambda: a.renew() and not b.watch(0, 0).last.wait_s)
    index = b.watch(0, 0).index
    seen: list[View] = []
    waiting = threading.Thread(target=lambda: seen.append(b.watch(index, 60)))
    waiting.start()
    for _ in range(5):
        a.renew()
    assert not seen
    a.release("b")
    waiting.join(10)
    assert [(view.holder, view.last.successor) for view in seen if view.last] == [(None, "b")]


def test_watcher_when_it_is_too_slow_then_a_holder_that_renewed_keeps_its_lease(
    consul_lease: NewLease, proxy: LossyProxy, consul: ConsulServer, key: str
) -> None:
    """What a watcher made of what it saw is carried out later, when it is true no more."""
    a, b = consul_lease("a"), consul_lease("b", address=proxy.address)
    a.acquire(0, {})
    a.renew()
    index = b.watch(0, 0).index
    proxy.lose, proxy.late = "PUT /v1/txn", True
    failed: list[Exception] = []

    def watch() -> None:
        try:
            b.watch(index, 60)
        except LeaseUnavailableError as error:
            failed.append(error)

    watching = threading.Thread(target=watch)
    watching.start()
    while watching.is_alive():
        assert a.announce(member(a)), "the session of the holder lives"
    assert failed, "the watcher has asked, and was not answered"
    a.renew()
    proxy.deliver()
    assert eventually(lambda: proxy.lost) == [409]
    assert session_of(consul, key)
    a.renew()


def test_watch_when_it_was_not_answered_then_the_holder_has_its_time_again(
    consul_lease: NewLease, proxy: LossyProxy
) -> None:
    """Who heard nothing for long has not seen a holder stand still: it may not have been able to
    renew either.
    """
    a, b = consul_lease("a"), consul_lease("b", address=proxy.address)
    a.acquire(0, {})
    a.renew()
    view = b.watch(0, 0)
    proxy.lose = "GET /v1/kv"
    stopped_s = clock.now_s()
    while clock.now_s() < stopped_s + 2 * TTL_S:
        assert a.announce(member(a)), "the session of the holder lives"
        with pytest.raises(LeaseUnavailableError):
            b.watch(view.index, TTL_S / 4)
    proxy.lose = ""
    heard_s = clock.now_s()
    view = b.watch(0, 0)
    while view.holder is not None:
        assert a.announce(member(a))
        view = b.watch(view.index, TTL_S / 4)
    assert clock.now_s() >= heard_s + TTL_S


def test_release_when_the_answer_is_lost_then_the_lock_is_free_nevertheless(
    consul_lease: NewLease, proxy: LossyProxy, consul: ConsulServer, key: str
) -> None:
    """Whatever became of the request, the node gives up the session with the lock."""
    a = consul_lease("a", address=proxy.address)
    a.acquire(0, {})
    proxy.lose = "release="
    with pytest.raises(LeaseUnavailableError):
        a.release()
    with pytest.raises(LeaseLostError):
        a.renew()
    assert a.announce(member(a))
    assert not session_of(consul, key)


def test_acquire_when_all_try_at_once_then_one_gets_it(consul_lease: NewLease) -> None:
    """Candidates that see the loss at the same moment: one wins, each time, and epochs grow."""
    leases = [consul_lease(name) for name in "abc"]
    epochs: list[int] = []
    for _ in range(5):
        won: list[ConsulLease] = []
        start = threading.Barrier(len(leases))

        def contend(
            lease: ConsulLease, start: threading.Barrier = start, won: list[ConsulLease] = won
        ) -> None:
            start.wait()
            try:
                epochs.append(lease.acquire(0, {}).epoch)
                won.append(lease)
            except (LeaseHeldError, LeaseUnavailableError):
                pass

        threads = [threading.Thread(target=contend, args=(each,)) for each in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].renew()
        won[0].release()
    assert epochs == sorted(set(epochs))
    assert len(epochs) == 5


def test_close_when_it_is_done_then_consul_has_nothing_left_of_the_node(
    consul_lease: NewLease, consul: ConsulServer
) -> None:
    """Services, checks and sessions go; the keys stay, for they carry the epoch."""
    a = consul_lease("closing")
    a.acquire(0, {})
    a.announce(member(a))

    def left() -> list[str]:
        names = list(consul.ask("/v1/agent/services"))
        names += [each["Name"] for each in consul.ask("/v1/session/list")]
        return [name for name in names if "closing" in name]

    assert len(left()) == 2
    a.close()
    assert left() == []


def test_environment_when_it_names_another_consul_then_the_configuration_counts(
    consul_lease: NewLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library would prefer its variables to what it is told."""
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "192.0.2.1:1")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "nonsense")
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:1")
    consul_lease("a").acquire(0, {})
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "nonsense")
    with pytest.raises(LeaseUnavailableError, match="unset CONSUL_HTTP_ADDR"):
        consul_lease("b")


def test_token_when_consul_wants_one_then_it_decides(
    own_consul: Callable[..., ConsulServer], consul_lease: NewLease, key: str
) -> None:
    """No token, a wrong or a weak one is refused in one line; with the right one all works."""
    consul = own_consul(acl=True)
    made: list[str] = []

    def token(rules: str) -> str:
        made.append(consul.make_token(rules, f"rules{len(made)}"))
        return made[-1]

    weak = token(f'key_prefix "{key}" {{ policy = "read" }} {RULES.partition("}")[2]}')
    for given in ("", "00000000-0000-4000-8000-00000000dead", token(""), weak):
        lease = consul_lease("a", address=consul.address, token=given)
        with pytest.raises(LeaseDeniedError, match="needs write on the key") as refused:
            eventually(lambda lease=lease: lease.acquire(0, {}))
        assert not given or given not in str(refused.value)
        assert "\n" not in str(refused.value)
        if given != weak:
            with pytest.raises(LeaseDeniedError):
                lease.watch(0, 0)
    strong = token(RULES % key)
    a, b = (consul_lease(name, address=consul.address, token=strong) for name in "ab")
    grant = a.acquire(0, {})
    assert a.announce(member(a))
    a.renew()
    assert b.watch(0, 0).holder is not None

    def acquired() -> Grant | None:
        try:
            return b.acquire(0, {})
        except LeaseHeldError:
            return None

    after = eventually(acquired, what="the TTL frees the lease")
    assert after.wait_s == 0, "the check of another node can be read"
    assert after.epoch > grant.epoch


def test_calls_when_the_servers_have_no_leader_then_each_says_so(
    own_consul: Callable[..., ConsulServer],
) -> None:
    """An agent that answers, and cannot do a thing: nothing but the lease's own error comes."""
    alone = {"bootstrap": False, "bootstrap_expect": 3, "performance": {"rpc_hold_timeout": "1ms"}}
    consul = own_consul(start=False, settings=alone)
    consul.run()
    agent = ConsulAgent(consul.address, "")

    def known() -> bool:
        agent.end_by(clock.now_s() + CALL_S)
        try:
            return agent.keep("none") is False
        except LeaseUnavailableError:
            return False

    eventually(known, what="the agent answers")
    calls: list[Callable[[], object]] = [
        lambda: agent.read("k"),
        lambda: agent.read_below("k"),
        lambda: agent.lock("k", b"v", "s", unchanged_since=0),
        lambda: agent.lock("k", b"v", "s", unchanged_since=1),
        lambda: agent.unlock_unchanged("k", b"v", "s", 1),
        lambda: agent.put_locked("k", b"v", "s"),
        lambda: agent.unlock("k", b"v", "s"),
        lambda: agent.expired("none"),
        lambda: agent.new_session("none"),
        lambda: agent.destroy("s"),
    ]
    for call in calls:
        agent.end_by(clock.now_s() + 20 * CALL_S)
        with pytest.raises(LeaseUnavailableError):
            call()
    agent.close()


def test_epoch_when_consul_restarts_or_is_emptied_then_it_only_grows(
    own_consul: Callable[..., ConsulServer], consul_lease: NewLease, key: str
) -> None:
    """Killed and started, key deleted, both, emptied: no epoch comes twice or is lower.

    An emptied Consul begins its index anew; then what the nodes have seen carries the epoch.
    """
    consul = own_consul()
    epochs: list[int] = []

    def elect(epoch_seen: int = 0) -> None:
        lease = consul_lease("a", address=consul.address)

        def acquired() -> int:
            try:
                return lease.acquire(epoch_seen, {}).epoch
            except (LeaseUnavailableError, LeaseHeldError):
                return 0  # a new Consul's agent keeps its server waiting at first

        epochs.append(eventually(acquired))
        lease.close()

    elect()
    consul.restart()
    elect()
    consul.call("DELETE", f"/v1/kv/{key}")
    elect()
    consul.call("DELETE", f"/v1/kv/{urllib.parse.quote(key)}?recurse")
    consul.restart()
    elect()
    elect(epoch_seen=1_000_000)
    consul.empty()
    elect(epoch_seen=epochs[-1])
    elect()
    assert epochs == sorted(set(epochs)), epochs


def test_holder_when_consul_is_restarted_then_it_goes_on_or_begins_anew(
    own_consul: Callable[..., ConsulServer], consul_lease: NewLease, key: str
) -> None:
    """No call hangs, belief ends at the deadline, and the node gets the lease again by itself."""
    consul = own_consul()
    a = consul_lease("a", address=consul.address)

    def acquired() -> object:
        try:
            return a.acquire(0, {})
        except (LeaseUnavailableError, LeaseHeldError):
            return None

    eventually(acquired)
    view = a.watch(0, 0)
    seen: list[BaseException] = []

    def watch() -> None:
        try:
            a.watch(view.index, 60)
        except LeaseUnavailableError as error:
            seen.append(error)

    watching = threading.Thread(target=watch)
    watching.start()
    consul.kill()
    watching.join(10)
    assert seen, "a watch ends with the agent"
    for _ in range(3):
        began_s = clock.now_s()
        with pytest.raises((LeaseUnavailableError, LeaseLostError)):
            a.renew()
        with pytest.raises(LeaseUnavailableError):
            a.announce(member(a))
        assert clock.now_s() - began_s < 2 * CALL_S
    consul.empty()
    eventually(acquired)
    # The watch of an index that the new Consul will not reach for long starts over.
    again = a.watch(view.index + 100_000, 30)
    assert again.holder is not None
    assert again.index < view.index + 100_000


def test_calls_when_the_agent_is_stopped_then_they_end_by_their_deadline(
    own_consul: Callable[..., ConsulServer], consul_lease: NewLease
) -> None:
    """A Consul that takes connections and never answers keeps nobody longer than promised."""
    consul = own_consul()
    a = consul_lease("a", address=consul.address, ttl_s=1.0)

    def acquired() -> object:
        try:
            return a.acquire(0, {})
        except LeaseUnavailableError:
            return None

    eventually(acquired)
    deadline_s = a.renew()
    with consul.stopped():
        began_s = clock.now_s()
        with pytest.raises(LeaseUnavailableError):
            a.renew()
        assert clock.now_s() < deadline_s
        for call, limit_s in (
            (lambda: a.watch(0, 0), CALL_S),
            (lambda: a.announce(member(a)), CALL_S),
            (lambda: a.acquire(0, {}), 2 * CALL_S),
        ):
            began_s = clock.now_s()
            with pytest.raises(LeaseUnavailableError, match="does not answer"):
                call()
            assert clock.now_s() - began_s < limit_s + 0.5
    eventually(acquired)
    a.renew()
