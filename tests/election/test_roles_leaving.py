"""Giving the lease away, and stopping, in plain words: one node and what it is told."""

from __future__ import annotations

import pytest
from election_script import B5, RULES, Script, member

from litemq.election import actions as do
from litemq.election import events as on
from litemq.election.states import (
    Primary,
    Stopped,
)

# Hand-over


def test_handoff_when_asked_for_then_writes_close_and_the_target_is_waited_for() -> None:
    """Then commits are refused, and only then is the lease released in its favour."""
    script = Script().elect(ttl_s=10.0)
    assert script.tell(on.HandoffRequested(1)) == [do.AskMembers(script.state.attempt)]
    assert script.accepts
    found = script.see_members(member("a", 9), member("b", 7), member("c", 8))
    drain = do.WaitForReplica(script.state.attempt, "c", RULES.drain_s)
    assert found == [do.HoldWrites(6), drain]
    assert not script.accepts
    assert script.tell(on.Renewed(6, 11.0)) == []
    fence = do.FenceCommits(script.state.attempt + 1)
    assert script.tell(on.DrainedTo(drain.attempt, "c")) == [fence]
    found = script.tell(on.Fenced(fence.attempt))
    demote = do.BecomeReplica(script.state.attempt)
    assert found == [do.Release(6, "c"), do.HandoffEnded(1), demote]


def test_handoff_when_the_target_does_not_catch_up_then_writes_open_again() -> None:
    """Refused, with the reason."""
    script = Script().elect(ttl_s=10.0)
    script.closed_for("b")
    found = script.tell(on.Tick(), at=RULES.drain_s)
    refused = "b did not have everything within 5 s"
    assert do.HandoffEnded(1, refused) in found
    assert do.AcceptCommits(6, 9.9) in found
    assert script.accepts


def test_handoff_when_an_earlier_wait_is_answered_late_then_it_counts_for_nothing() -> None:
    """Commits were accepted since."""
    script = Script().elect(ttl_s=20.0)
    earlier = script.closed_for("b")
    script.tell(on.Tick(), at=RULES.drain_s)
    assert script.tell(on.DrainedTo(earlier, "b")) == []
    script.closed_for("b", request=2)
    assert script.tell(on.DrainedTo(earlier, "b")) == []
    assert isinstance(script.role, Primary)


def test_handoff_when_the_lease_ends_meanwhile_then_it_is_refused() -> None:
    """Another may be primary already, and may have gone further."""
    script = Script().elect(ttl_s=1.0)
    wait = script.closed_for("b")
    found = script.tell(on.DrainedTo(wait, "b"), at=2.0)
    assert do.HandoffEnded(1, "the lease is not renewed") in found
    assert isinstance(script.role, Primary)
    assert not script.accepts


def test_handoff_when_the_primary_is_deposed_meanwhile_then_whoever_asked_is_told() -> None:
    """Once, with the reason."""
    script = Script().elect(ttl_s=10.0)
    script.closed_for("b")
    script.tell(on.LeaseLost(6, "the session is gone"))
    script.tell(on.Fenced(script.state.attempt))
    answers = [each for each in script.actions if isinstance(each, do.HandoffEnded)]
    assert answers == [do.HandoffEnded(1, "the lease was lost: the session is gone")]


@pytest.mark.parametrize("event", [on.HandoffRequested(2, "c"), on.PromoteRequested(2, "c")])
def test_handoff_when_one_is_under_way_then_another_is_refused(event: on.Event) -> None:
    """The first goes on."""
    script = Script().elect(ttl_s=10.0)
    script.closed_for("b")
    assert script.tell(event) == [do.HandoffEnded(2, "a hand-over is under way")]


def test_promote_when_asked_for_by_a_candidate_then_the_primary_hands_over_to_it() -> None:
    """Although another is further ahead."""
    script = Script().elect(ttl_s=10.0)
    script.tell(on.PromoteRequested(1, "b"))
    script.see_members(member("a", 9), member("b", 7), member("c", 8))
    assert script.last(do.WaitForReplica).target == "b"


def test_promote_when_asked_for_on_a_candidate_then_it_asks_its_primary() -> None:
    """Without a primary the lease decides; a primary is one already."""
    script = Script()
    unknown = "no primary is known: the lease decides"
    assert script.tell(on.PromoteRequested(1, "a")) == [do.HandoffEnded(1, unknown)]
    script.tell(on.LeaseView(B5))
    assert script.tell(on.PromoteRequested(2, "a")) == [do.AskHandoff(2, B5)]
    assert Script().elect().tell(on.PromoteRequested(3, "a")) == [do.HandoffEnded(3)]


def test_successor_when_named_then_it_asks_at_once_and_others_hold_back() -> None:
    """For a while; then candidacy as usual."""
    named = Script()
    assert named.see_free(successor="a") == [do.Acquire(named.state.attempt, 5)]
    other = Script()
    assert other.see_free(successor="b") == [do.Announce(5, True)]
    assert isinstance(other.wait()[0], do.AskMembers)
    assert other.now_s == RULES.grace_s


def test_successor_when_denied_then_it_holds_back_and_asks_again() -> None:
    """The one before it may have named it, and not have let go yet."""
    script = Script()
    script.see_free(successor="a")
    script.tell(on.Denied(script.state.attempt))
    assert not any(isinstance(each, do.Acquire) for each in script.see_free(successor="a"))
    assert not any(isinstance(each, do.Acquire) for each in script.see_free(successor="a"))
    script.wait()
    assert script.see_free(successor="a") == [do.Acquire(script.state.attempt, 5)]


# Stop


def test_stop_when_a_successor_is_there_then_it_gets_everything_first() -> None:
    """The node ends when the release was heard of."""
    script = Script().elect(ttl_s=10.0)
    script.tell(on.StopRequested())
    script.see_members(member("a", 9), member("b", 8))
    script.tell(on.DrainedTo(script.last(do.WaitForReplica).attempt, "b"))
    assert script.tell(on.Fenced(script.state.attempt)) == [do.Release(6, "b")]
    assert script.tell(on.Released(6)) == [do.Stop()]


def test_stop_when_the_successor_does_not_catch_up_then_the_lease_is_released_for_anybody() -> None:
    """Stopping is not refused."""
    script = Script().elect(ttl_s=10.0)
    script.tell(on.StopRequested())
    script.see_members(member("a", 9), member("b", 8))
    script.tell(on.Tick(), at=RULES.drain_s)
    assert script.tell(on.Fenced(script.state.attempt)) == [do.Release(6, None)]


def test_stop_when_there_is_no_other_candidate_then_the_lease_is_just_released() -> None:
    """And if the service does not hear of it, the node ends all the same."""
    script = Script().elect(ttl_s=10.0)
    script.tell(on.StopRequested())
    script.see_members(member("a", 9))
    assert script.tell(on.Fenced(script.state.attempt)) == [do.Release(6, None)]
    assert script.wait() == [do.Stop()]
    assert script.now_s == RULES.release_s


def test_stop_when_a_hand_over_is_under_way_then_it_ends_with_the_node() -> None:
    """Whoever asked for it is answered."""
    script = Script().elect(ttl_s=10.0)
    wait = script.closed_for("b")
    script.tell(on.StopRequested())
    script.tell(on.DrainedTo(wait, "b"))
    assert script.tell(on.Fenced(script.state.attempt)) == [do.Release(6, "b"), do.HandoffEnded(1)]


def test_stop_when_replica_or_candidate_then_at_once() -> None:
    """A grant that comes later is given back."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    assert script.tell(on.StopRequested()) == [do.Stop()]
    assert isinstance(script.role, Stopped)
    attempt = script.last(do.Acquire).attempt
    assert do.Release(6) in script.tell(on.Granted(attempt, 6, 9.0))


def test_stop_when_the_lease_is_lost_meanwhile_then_the_node_ends_all_the_same() -> None:
    """As when the lease service is dead: nobody says who the others are."""
    script = Script().elect(ttl_s=10.0)
    script.tell(on.StopRequested())
    script.tell(on.LeaseLost(6, "it was not renewed in time"))
    assert script.tell(on.Fenced(script.state.attempt)) == [do.Release(6, None)]
    assert script.wait() == [do.Stop()]
