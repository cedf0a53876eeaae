"""The rules of the role machine in plain words, one node and what it is told."""

from __future__ import annotations

import pytest
from election_script import B5, RULES, Script, member
from msgspec.structs import replace

from litemq.election import actions as do
from litemq.election import events as on
from litemq.election.members import Holder
from litemq.election.standby import NO_CANDIDATE
from litemq.election.states import (
    Candidate,
    Demoting,
    Primary,
    Promoting,
    Replica,
    Search,
)

# Start


def test_node_when_it_starts_then_commits_are_refused_before_anything_else() -> None:
    """An earlier run of the watcher may have allowed some; the lease is looked at afterwards."""
    script = Script()
    assert isinstance(script.role, Replica)
    fresh = on.LeaseView(B5)
    assert script.tell(fresh) == [do.Follow(B5)]


# Election


def test_candidate_when_it_is_alone_then_it_asks_for_the_lease_at_once() -> None:
    """A cluster of one waits for nobody."""
    script = Script()
    assert script.see_free() == [do.Announce(5, True), do.AskMembers(script.state.attempt)]
    assert script.see_members(member("a")) == [do.Acquire(script.state.attempt, 5)]
    assert script.now_s == 0.0


def test_candidate_when_it_is_the_most_advanced_then_it_asks_at_once() -> None:
    """All others have announced where they stand."""
    script = Script()
    script.see_free()
    found = script.see_members(member("a", 9), member("b", 8), member("c", 9))
    assert found == [do.Acquire(script.state.attempt, 5)]


def test_candidate_when_others_are_ahead_then_it_waits_longer_for_each() -> None:
    """And looks again when its time has come: those who are still ahead may be dead."""
    script = Script()
    members = (member("a", 7), member("b", 8), member("c", 9))
    script.see_free()
    assert script.see_members(*members) == []
    assert isinstance(script.wait()[0], do.AskMembers)
    assert script.now_s == pytest.approx(2 * RULES.step_s)
    assert script.see_members(*members) == [do.Acquire(script.state.attempt, 5)]


def test_candidate_when_another_has_not_announced_yet_then_it_looks_again_soon() -> None:
    """All see the loss at the same moment; what was announced before it may be old."""
    script = Script()
    script.see_free()
    silent = (member("a", 9), member("b", 8, lost=4))
    assert script.see_members(*silent) == []
    assert isinstance(script.wait()[0], do.AskMembers)
    assert script.now_s == pytest.approx(RULES.relook_s)
    assert script.see_members(member("a", 9), member("b", 10)) == []
    assert isinstance(script.role, Candidate)


def test_candidate_when_another_stays_silent_then_it_goes_ahead() -> None:
    """Whoever announces nothing within the time for it is not waited for."""
    script = Script()
    script.see_free()
    while not script.see_members(member("a", 9), member("b", 8, lost=4)):
        script.wait()
    assert script.now_s == pytest.approx(RULES.settle_s)


def test_candidate_when_members_cannot_be_seen_then_it_asks_for_the_lease_in_the_end() -> None:
    """The lease decides, not the list."""
    script = Script()
    script.see_free()
    while not isinstance(script.wait()[0], do.Acquire):
        assert script.now_s < 10
    assert script.now_s == pytest.approx(3 * RULES.answer_s)


def test_replica_when_it_is_no_candidate_then_it_never_asks() -> None:
    """Whatever it sees; and what is granted to it by mistake is given back."""
    script = Script(replace(RULES, candidate=False))
    assert script.see_free() == []
    assert script.see_free(successor="a") == []
    assert script.tell(on.Granted(1, 7, 9.0)) == [do.PersistEpoch(7), do.Release(7)]
    assert script.tell(on.PromoteRequested(1, "a")) == [do.HandoffEnded(1, "a is no candidate")]


def test_replica_when_no_candidate_takes_the_lease_then_it_says_so_once() -> None:
    """And again the next time, after somebody had it."""
    script = Script(replace(RULES, candidate=False))
    epoch = 5
    for _ in range(2):
        script.see_free(epoch)
        script.now_s += RULES.vacant_s - 0.1
        script.see_free(epoch)
        assert NO_CANDIDATE not in script.told()
        script.now_s += 0.2
        script.see_free(epoch)
        assert script.told().count(NO_CANDIDATE) == 1
        script.see_free(epoch)
        assert script.told().count(NO_CANDIDATE) == 1
        epoch = script.state.epoch_seen + 1
        script.tell(on.LeaseView(Holder("b", "tcp://b", epoch)))
        script.actions = []


def test_candidate_when_its_log_is_not_fit_then_all_others_go_first() -> None:
    """It waits even alone, for somebody fit may be starting; then it is better than none."""
    script = Script()
    script.tell(on.FitnessChanged(False, "a record is corrupt"))
    script.see_free()
    assert script.see_members(member("a", 9, fit=False)) == []
    script.wait()
    assert script.now_s == pytest.approx(RULES.unfit_s)
    assert script.see_members(member("a", 9, fit=False)) == [do.Acquire(script.state.attempt, 5)]


def test_candidate_when_somebody_was_elected_then_it_follows() -> None:
    """In a higher epoch, which is on disk first."""
    script = Script()
    script.see_free()
    holder = Holder("b", "tcp://b", 6)
    assert script.tell(on.LeaseView(holder)) == [do.PersistEpoch(6), do.Follow(holder)]
    assert isinstance(script.role, Replica)


def test_candidate_when_a_view_is_older_than_the_loss_then_it_does_not_follow() -> None:
    """An epoch that has ended never comes back."""
    script = Script()
    script.see_free(last_epoch=5)
    assert script.tell(on.LeaseView(B5)) == []
    assert isinstance(script.role, Candidate)


def test_candidate_when_denied_then_it_looks_and_holds_back_as_told() -> None:
    """Somebody was faster, or the service asks for a pause."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    denied = on.Denied(script.last(do.Acquire).attempt, retry_in_s=0.7)
    assert script.tell(denied) == [do.LookAtLease()]
    script.see_free()
    assert isinstance(script.wait()[0], do.AskMembers)
    assert script.now_s == pytest.approx(0.7)


# Grants


def test_grant_when_it_arrives_then_the_epoch_is_on_disk_before_the_actors_change() -> None:
    """No commit yet."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    assert script.grant(6) == [do.PersistEpoch(6), do.BecomePrimary(6)]
    assert isinstance(script.role, Promoting)
    assert not script.accepts
    assert script.tell(on.Promoted(6)) == [do.AcceptCommits(6, 0.9)]
    assert script.accepts


@pytest.mark.parametrize("epoch", [4, 5])
def test_grant_when_its_epoch_is_not_a_new_one_then_it_is_given_back_and_said(epoch: int) -> None:
    """Two terms in one epoch could not be told apart."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    assert script.grant(epoch)[0] == do.Release(epoch)
    assert script.last(do.Tell).text.startswith("replica: granted epoch")
    assert isinstance(script.role, Replica)


def test_grant_when_an_earlier_holder_may_believe_in_its_lease_then_nothing_happens_before() -> (
    None
):
    """The longer one of what the view and the grant say."""
    script = Script()
    script.see_free(safe_in_s=0.5)
    script.see_members(member("a"))
    assert script.grant(6, ttl_s=3.0, wait_s=0.3) == [do.PersistEpoch(6)]
    assert script.wait() == [do.Renew(6)]
    assert do.BecomePrimary(6) in script.wait()
    assert script.now_s == 0.5


def test_grant_when_it_comes_after_we_gave_up_then_it_is_given_back() -> None:
    """Else nobody would serve and nobody else could."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    attempt = script.last(do.Acquire).attempt
    script.wait()
    assert isinstance(script.role, Replica)
    late = script.tell(on.Granted(attempt, 6, 9.0))
    assert late == [do.PersistEpoch(6), do.Release(6)]
    assert isinstance(script.role, Replica)


def test_grant_when_it_comes_twice_then_the_second_changes_nothing() -> None:
    """Above all, the lease that we serve under is not given back."""
    script = Script().elect()
    assert script.tell(on.Granted(script.last(do.Acquire).attempt, 6, 1.0)) == []
    assert script.accepts


def test_grant_when_its_answer_was_lost_then_the_lease_is_given_back_when_it_is_seen() -> None:
    """Not while the answer may still be under way."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    seen = on.LeaseView(Holder("a", "tcp://a", 6), mine=True)
    assert script.tell(seen) == []
    script.wait()
    assert script.tell(seen) == [do.PersistEpoch(6), do.Release(6)]


def test_lease_when_held_in_our_name_by_another_process_then_it_is_left_alone() -> None:
    """An earlier run whose lease has not ended, or a second node of this name: that is told."""
    script = Script()
    assert script.tell(on.LeaseView(Holder("a", "tcp://a", 5))) == []
    assert "another process" in script.state.why


def test_promotion_when_it_is_confirmed_for_another_epoch_then_no_commit_is_accepted() -> None:
    """A late answer of an earlier term."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    script.grant(7)
    assert script.tell(on.Promoted(6)) == []
    assert isinstance(script.role, Promoting)


def test_promotion_when_it_is_confirmed_before_it_was_ordered_then_it_is_not_believed() -> None:
    """An earlier holder may still accept commits."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    script.grant(6, wait_s=0.5)
    assert script.tell(on.Promoted(6)) == []
    assert isinstance(script.role, Promoting)


def test_promotion_when_the_lease_ran_out_meanwhile_then_commits_wait_for_its_renewal() -> None:
    """The actors took longer than the lease."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    script.grant(6)
    assert script.tell(on.Promoted(6), at=2.0) == []
    assert not script.accepts
    assert script.tell(on.Renewed(6, 2.5)) == [do.AcceptCommits(6, 2.4)]


@pytest.mark.parametrize("event", [on.PromotionFailed(6, "no disk"), on.Tick()])
def test_promotion_when_it_fails_or_takes_too_long_then_others_may_try(event: on.Event) -> None:
    """The lease is released, and this node holds back."""
    script = Script()
    script.see_free()
    script.see_members(member("a"))
    script.grant(6, ttl_s=100.0)
    script.tell(event, at=RULES.promote_s)
    assert do.Release(6) in script.tell(on.Fenced(script.state.attempt))
    script.tell(on.Demoted(script.state.attempt))
    script.see_free(last_epoch=6)
    assert isinstance(script.role, Candidate)
    assert script.role.search is Search.HOLDING


# Fencing


def test_primary_when_its_lease_is_about_to_end_then_commits_are_refused_first() -> None:
    """On any event, in front of whatever else it asks for."""
    script = Script().elect()
    found = script.tell(on.HandoffRequested(1), at=0.95)
    assert isinstance(found[0], do.FenceCommits)
    assert not script.accepts
    script = Script().elect()
    assert isinstance(script.tell(on.Tick(), at=50.0)[0], do.FenceCommits)


def test_primary_when_nothing_is_said_then_it_wakes_to_renew_and_to_refuse() -> None:
    """At each renewal, and when the lease is about to end."""
    script = Script().elect()
    for _ in range(3):
        assert script.wait() == [do.Renew(6)]
    assert isinstance(script.wait()[0], do.FenceCommits)
    assert script.now_s == pytest.approx(0.9)


def test_primary_when_the_service_is_back_then_it_accepts_again_in_the_same_epoch() -> None:
    """Nobody else had the lease."""
    script = Script().elect()
    script.tell(on.RenewFailed(6, "timed out"), at=0.5)
    assert script.accepts
    script.tell(on.Tick(), at=0.95)
    assert not script.accepts
    assert isinstance(script.role, Primary)
    assert script.tell(on.Renewed(6, 10.0), at=9.0) == [do.AcceptCommits(6, 9.9)]


def test_renewal_when_it_belongs_to_another_epoch_or_is_over_then_it_opens_nothing() -> None:
    """An answer that a stopped process finds when it wakes."""
    script = Script().elect()
    assert script.tell(on.Renewed(5, 90.0)) == []
    script.tell(on.Tick(), at=3.0)
    assert script.tell(on.Renewed(6, 2.0)) == []
    assert not script.accepts


def test_renewal_when_overtaken_by_a_later_one_then_it_takes_nothing_back() -> None:
    """The lease lasts as long as the best answer said."""
    script = Script().elect()
    script.tell(on.Renewed(6, 2.0), at=0.5)
    script.tell(on.Renewed(6, 1.2))
    assert script.last(do.AcceptCommits).until_s == 1.9


@pytest.mark.parametrize(
    "event",
    [
        on.LeaseLost(6, "the session is gone"),
        on.EpochSeen(7),
        on.LeaseView(Holder("b", "tcp://b", 7)),
        on.LeaseView(Holder("b", "tcp://b", 6)),
        on.MembersSeen(0, (member("b", epoch_seen=7),)),
    ],
    ids=["lost", "a higher epoch", "another holder", "the same epoch", "another node saw more"],
)
def test_primary_when_deposed_then_it_refuses_commits_and_becomes_a_replica(
    event: on.Event,
) -> None:
    """Never again in this epoch."""
    script = Script().elect()
    found = script.tell(event)
    assert any(isinstance(each, do.FenceCommits) for each in found)
    assert isinstance(script.role, Demoting)
    assert not script.accepts
    script.tell(on.Renewed(6, 9.0))
    found = script.tell(on.Fenced(script.state.attempt))
    assert found[-1] == do.BecomeReplica(script.state.attempt)
    assert script.tell(on.Demoted(script.state.attempt)) == [do.LookAtLease()]
    script.tell(on.Promoted(6))
    script.tell(on.Renewed(6, 9.0))
    assert not script.accepts


@pytest.mark.parametrize(
    "event",
    [
        on.LeaseLost(5, "late"),
        on.EpochSeen(5),
        on.LeaseView(B5),
        on.Fenced(0),
        on.Demoted(0),
        on.Denied(1),
        on.DrainedTo(3, "b"),
        on.PrimarySilent(5),
        on.Released(5),
    ],
)
def test_primary_when_it_hears_of_earlier_terms_then_it_goes_on(event: on.Event) -> None:
    """Late and doubled answers."""
    script = Script().elect()
    assert script.tell(event) == []
    assert script.accepts


def test_primary_when_the_lease_looks_free_then_it_asks_and_goes_on() -> None:
    """The view may be older than the grant; whoever is granted the lease now has to wait for us."""
    script = Script().elect()
    assert script.see_free() == [do.Renew(6)]
    assert script.accepts


def test_lease_when_commits_may_still_be_accepted_then_it_is_not_released() -> None:
    """Only the answer to this very fence counts, or the end of the lease."""
    script = Script().elect()
    earlier = script.state.attempt
    script.tell(on.EpochSeen(7))
    assert script.tell(on.Fenced(earlier)) == []
    assert script.tell(on.Tick(), at=0.99) == []
    assert do.Release(6) in script.tell(on.Tick(), at=1.0)


# Replicas


def test_replica_when_the_service_is_away_then_it_goes_on_following() -> None:
    """And looks again from time to time."""
    script = Script()
    script.tell(on.LeaseView(B5))
    assert script.tell(on.LeaseUnavailable("refused")) == []
    assert script.state.following == B5
    assert script.wait() == [do.LookAtLease()]


def test_replica_when_the_holder_has_a_lower_epoch_then_it_is_not_followed() -> None:
    """The service has lost its memory; the holder will hear of the higher epoch."""
    script = Script(epoch_seen=8)
    assert script.tell(on.LeaseView(B5)) == []
    assert "lower" in script.last(do.Tell).text


def test_replica_when_its_primary_is_silent_then_it_looks_at_the_lease_at_once() -> None:
    """Not when an earlier primary is."""
    script = Script()
    script.tell(on.LeaseView(B5))
    assert script.tell(on.PrimarySilent(4)) == []
    assert script.tell(on.PrimarySilent(5)) == [do.LookAtLease()]


# Told


def test_role_when_it_changes_then_why_and_since_are_there() -> None:
    """What `litemq status` shows."""
    script = Script()
    script.tell(on.LeaseView(Holder("b", "tcp://b", 6)), at=3.0)
    assert (script.state.why, script.state.since_s) == ("b is primary in epoch 6", 3.0)


def test_service_when_it_is_away_for_long_then_it_is_told_once_each_way() -> None:
    """No line for every attempt."""
    script = Script().elect()
    for _ in range(5):
        script.tell(on.RenewFailed(6, "refused"))
    script.tell(on.Renewed(6, 2.0))
    told = [each.text for each in script.actions if isinstance(each, do.Tell)]
    assert sum("does not answer" in each for each in told) == 1
    assert sum("answers again" in each for each in told) == 1
