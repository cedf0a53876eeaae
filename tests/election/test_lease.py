"""What every election keeps, whoever holds the lease: tests that all implementations pass."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import hypothesis_profile  # noqa: F401
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from litemq.election.lease import (
    FORMAT,
    MAX_POSITIONS,
    Claim,
    DuplicateNodeError,
    Identity,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    LeaseUnavailableError,
    Member,
    OtherClusterError,
    View,
    decode_claim,
    decode_member,
    encode_claim,
    encode_member,
    summary,
)
from litemq.election.static import StaticLease

NewLease = Callable[..., Lease]


def member(lease: Lease, **fields: Any) -> Member:
    who = lease.identity
    return Member(
        cluster=who.cluster,
        node=who.node,
        instance=who.instance,
        address=who.address,
        **({"role": "replica", "epoch": 0, "since_ms": 1} | fields),
    )


class Watching:
    """A thread that watches once from the view of now."""

    def __init__(self, lease: Lease, wait_s: float = 20.0) -> None:
        self.seen: View | LeaseUnavailableError | None = None
        index = lease.watch(0, 0).index

        def watch() -> None:
            try:
                self.seen = lease.watch(index, wait_s)
            except LeaseUnavailableError as error:
                self.seen = error

        self.thread = threading.Thread(target=watch)
        self.thread.start()

    def ended(self) -> View | LeaseUnavailableError | None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.seen


def test_acquire_when_nobody_holds_it_then_it_is_granted_and_seen(new_lease: NewLease) -> None:
    """The grant's epoch is above the one that was seen, and others see who has it."""
    a, b = new_lease("a"), new_lease("b")
    began_s = time.monotonic()
    grant = a.acquire(41, {"db": (3, 7)})
    assert grant.epoch > 41
    assert grant.deadline_s > began_s
    for lease in (a, b):
        holder = lease.watch(0, 0).holder
        assert holder is not None
        assert (holder.node, holder.epoch) == ("a", grant.epoch)
        assert holder.address == a.identity.address
        assert holder.positions == {"db": (3, 7)}
    assert a.renew() >= grant.deadline_s


def test_acquire_when_another_holds_it_then_it_is_named(new_lease: NewLease) -> None:
    """Who comes second is told who was first, and nothing changes."""
    a, b = new_lease("a"), new_lease("b")
    grant = a.acquire(0, {})
    with pytest.raises(LeaseHeldError, match='node "a"') as refused:
        b.acquire(100, {})
    assert refused.value.holder.epoch == grant.epoch
    assert pickle.loads(pickle.dumps(refused.value)).holder == refused.value.holder
    a.renew()


def test_release_when_it_names_a_successor_then_all_see_it_and_nobody_waits(
    new_lease: NewLease,
) -> None:
    """A claim that was released stays, so that its epoch does, and needs no waiting."""
    a, b = new_lease("a"), new_lease("b")
    first = a.acquire(0, {})
    over_s = time.monotonic() + first.wait_s
    eventually(lambda: a.renew() and time.monotonic() > over_s)
    a.release("b")
    view = b.watch(0, 0)
    assert view.holder is None
    assert view.last is not None
    assert view.last.released
    assert view.last.successor == "b"
    assert view.safe_in_s == 0
    second = b.acquire(0, {})
    assert second.epoch > first.epoch
    assert second.wait_s == 0
    with pytest.raises(LeaseLostError):
        a.renew()
    a.release()
    b.renew()


def test_release_when_it_comes_before_the_wait_is_over_then_the_rest_is_inherited(
    new_lease: NewLease,
) -> None:
    """Whom a holder had to wait for, its successor has to wait for as well."""
    a, b = new_lease("a"), new_lease("b")
    waited_for = a.acquire(0, {}).wait_s
    assert waited_for > 0
    a.release()
    assert 0 < b.acquire(0, {}).wait_s <= waited_for


def test_acquire_when_it_is_held_by_oneself_then_the_epoch_grows(new_lease: NewLease) -> None:
    """A holder that asks again starts a new term; the one before is over."""
    a = new_lease("a")
    first = a.acquire(0, {})
    second = a.acquire(0, {})
    assert second.epoch > first.epoch
    a.renew()


def test_watch_when_the_lease_changes_hands_then_it_returns(new_lease: NewLease) -> None:
    """A watch of the other thread ends when the lock is taken, and again when it is freed."""
    a, b = new_lease("a"), new_lease("b")
    watching = Watching(b)
    a.acquire(0, {})
    view = watching.ended()
    assert isinstance(view, View)
    # A file is seen locked a moment before the claim stands in it.
    eventually(lambda: b.watch(0, 0).holder)
    watching = Watching(b)
    a.release()
    assert isinstance(watching.ended(), View)
    eventually(lambda: b.watch(0, 0).holder is None)


def test_watch_when_nothing_changes_then_it_ends_in_time(new_lease: NewLease) -> None:
    """Without a change the same view comes back when the time is up."""
    lease = new_lease("a")
    lease.acquire(0, {})
    index = lease.watch(0, 0).index
    began_s = time.monotonic()
    again = lease.watch(index, 0.1)
    assert again.index == index
    assert 0.09 < time.monotonic() - began_s < 2


def test_close_when_a_watch_is_blocked_then_it_ends(new_lease: NewLease) -> None:
    """The watcher's thread can always be ended, and what was held is free."""
    a, b = new_lease("a"), new_lease("b")
    a.acquire(0, {})
    watching = Watching(a)
    a.close()
    assert isinstance(watching.ended(), LeaseUnavailableError)
    view = b.watch(0, 0)
    assert view.holder is None
    assert view.last is not None
    assert view.last.released


def test_epoch_when_the_lease_goes_round_then_it_only_grows(new_lease: NewLease) -> None:
    """Every grant has an epoch above all before it, also above what only members know."""
    leases = [new_lease(name) for name in "abc"]
    epochs = []
    for turn in range(9):
        lease = leases[turn % 3]
        epochs.append(lease.acquire(0, {}).epoch)
        lease.release()
    assert epochs == sorted(set(epochs))
    leases[0].announce(member(leases[0], epoch=100_000))
    assert leases[1].acquire(0, {}).epoch > 100_000


def test_renew_when_nothing_was_acquired_then_it_is_refused(new_lease: NewLease) -> None:
    """There is nothing to renew, and releasing it again does no harm."""
    lease = new_lease("a")
    with pytest.raises(LeaseLostError):
        lease.renew()
    lease.release()


def test_cluster_when_the_key_is_of_another_then_nobody_takes_it(new_lease: NewLease) -> None:
    """Two clusters that were given one key by mistake are told so; the first keeps it."""
    ours, theirs = new_lease("a", cluster="c"), new_lease("b", cluster="d")
    ours.acquire(0, {})
    ours.release()
    with pytest.raises(OtherClusterError, match=r"belongs to cluster c .* this node to d"):
        theirs.acquire(0, {})
    with pytest.raises(OtherClusterError) as refused:
        theirs.watch(0, 0)
    assert pickle.loads(pickle.dumps(refused.value)).index == refused.value.index
    with pytest.raises(OtherClusterError):
        theirs.watch(refused.value.index, 0.05)
    ours.acquire(0, {})


def test_cluster_when_a_node_has_none_then_it_sees_which_it_may_join(new_lease: NewLease) -> None:
    """A new node can look, may not hold anything, and takes part once it has joined."""
    old, new = new_lease("a"), new_lease("b", cluster="")
    old.acquire(0, {})
    old.release()
    last = new.watch(0, 0).last
    assert last is not None
    with pytest.raises(OtherClusterError, match="has to join"):
        new.acquire(0, {})
    new.join(last.cluster)
    new.acquire(0, {})


def test_members_when_they_announce_themselves_then_all_are_listed(new_lease: NewLease) -> None:
    """What nodes say of themselves is seen by all; who has left is listed, and not alive."""
    a, b = new_lease("a"), new_lease("b")
    assert a.members() == []
    assert a.announce(member(a))
    assert b.announce(member(b, candidate=False, positions={"x": (1, 2)}))
    assert a.announce(member(a, role="primary", epoch=7, why="elected"))
    assert a.announce(member(a, role="primary", epoch=7, why="elected"))
    listed = {each.node: each for each in b.members()}
    assert listed == {
        "a": member(a, role="primary", epoch=7, why="elected", alive=True),
        "b": member(b, candidate=False, positions={"x": (1, 2)}, alive=True),
    }
    b.close()
    assert [each.alive for each in a.members()] == [True, False]


def test_announce_when_another_node_has_the_name_then_it_is_found(new_lease: NewLease) -> None:
    """Two nodes with one name: the second is told, not at once where it may be a former life."""
    first, second = new_lease("a"), new_lease("a")
    assert first.announce(member(first))

    def is_refused() -> bool:
        first.announce(member(first))
        assert not second.announce(member(second))
        return False

    with pytest.raises(DuplicateNodeError, match=r"another .* name"):
        eventually(is_refused)
    assert [each.instance for each in first.members()] == [first.identity.instance]
    first.close()
    assert eventually(lambda: second.announce(member(second)))


def test_static_when_the_node_is_the_primary_then_it_always_gets_the_lease() -> None:
    """The configuration decides; there is no deadline, and everybody else is told who it is."""
    who = Identity(cluster="c", node="a", address="tcp://127.0.0.1:1")
    primary = StaticLease(who, "tcp://127.0.0.1:1")
    replica = StaticLease(who, "tcp://127.0.0.1:2")
    with pytest.raises(LeaseLostError):
        primary.renew()
    grant = primary.acquire(5, {})
    assert (grant.epoch, grant.deadline_s, grant.wait_s) == (6, float("inf"), 0)
    assert primary.renew() == float("inf")
    with pytest.raises(LeaseHeldError, match=r"tcp://127\.0\.0\.1:2"):
        replica.acquire(5, {})
    holder = replica.watch(0, 10).holder
    assert holder is not None
    assert holder.address == "tcp://127.0.0.1:2"
    assert replica.watch(1, 0.01).holder == holder
    assert primary.announce(member(primary, role="primary"))
    assert [each.alive for each in primary.members()] == [True]
    watching = Watching(primary)
    primary.close()
    assert isinstance(watching.ended(), LeaseUnavailableError)


CLAIM = Claim(
    cluster="c", node="a", instance="i", address="tcp://h:1", epoch=3, ttl_s=1.0, positions={}
)


def test_claim_when_encoded_then_it_is_decoded_equal() -> None:
    """A claim is JSON, and a field that only newer nodes know does no harm."""
    assert decode_claim(encode_claim(CLAIM), "k", "c") == CLAIM
    assert decode_claim(encode_claim(CLAIM), "k", "") == CLAIM
    more = msgspec.json.decode(encode_claim(CLAIM)) | {"mood": "good"}
    assert decode_claim(msgspec.json.encode(more), "k", "c") == CLAIM


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": FORMAT + 1}, "newer LiteMQ"),
        ({"cluster": "d"}, "one key is for one cluster"),
        ({"cluster": ""}, "no LiteMQ wrote"),
        ({"epoch": -1}, "no LiteMQ wrote"),
        ({"epoch": 1 << 63}, "no LiteMQ wrote"),
        ({"ttl_s": -1}, "no LiteMQ wrote"),
        ({"positions": {"x": [1]}}, "no LiteMQ wrote"),
        ({"node": "n" * 301}, "no LiteMQ wrote"),
    ],
)
def test_claim_when_it_is_not_ours_then_one_line_says_so(
    changed: dict[str, object], said: str
) -> None:
    """Other clusters, newer versions and values no node can have written are told apart."""
    raw = msgspec.json.encode(msgspec.json.decode(encode_claim(CLAIM)) | changed)
    with pytest.raises(OtherClusterError, match=said) as refused:
        decode_claim(raw, "the key", "c", 9)
    assert "\n" not in str(refused.value)
    assert refused.value.index == 9


@given(st.binary(max_size=200) | st.just(b"[" * 100_000) | st.just(b"x" * 1_000_000))
def test_values_when_they_are_garbage_then_nothing_else_is_raised(raw: bytes) -> None:
    """A key may hold anything; that it is not ours is all there is to say."""
    with pytest.raises(OtherClusterError):
        decode_claim(raw, "k", "c")
    assert decode_member(raw, alive=True) is None


def test_member_when_encoded_then_being_alive_is_not_its_own_word() -> None:
    """Whether a node is alive is the server's word alone."""
    one = Member(
        cluster="c", node="a", instance="i", address="x", role="r", epoch=0, since_ms=0, alive=True
    )
    decoded = decode_member(encode_member(one), alive=False)
    assert decoded is not None
    assert not decoded.alive


def test_summary_when_there_are_too_many_databases_then_it_is_cut() -> None:
    """A key has a limit, and a node with many databases can still be elected."""
    many = {f"{number:05}": (1, number) for number in range(MAX_POSITIONS + 5)}
    assert list(summary(many)) == sorted(many)[:MAX_POSITIONS]
    claim = msgspec.structs.replace(CLAIM, positions=summary(many))
    assert decode_claim(encode_claim(claim), "k", "c") == claim
