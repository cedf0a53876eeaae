"""Whose turn it is, and who is fit to succeed."""

from __future__ import annotations

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
import pytest
from election_script import member
from hypothesis import given
from hypothesis import strategies as st

from litemq.election.candidacy import Turn, highest_epoch, ranking, successor_of, turn_of
from litemq.election.members import Member, Standing, standing_of
from litemq.txlog.position import Position

MEMBERS = st.lists(
    st.builds(
        Member,
        st.sampled_from("abcdefg"),
        st.builds(Standing, st.integers(0, 3), st.integers(0, 3)),
        candidate=st.booleans(),
        fit=st.booleans(),
        lost=st.integers(0, 3),
    ),
    unique_by=lambda each: each.node,
    max_size=7,
)


def test_standing_when_of_many_databases_then_the_highest_epoch_and_all_transactions_count() -> (
    None
):
    """No database at all is the least."""
    assert standing_of([Position(3, 10, 1), Position(5, 2, 1)]) == Standing(5, 12)
    assert standing_of([]) == Standing(0, 0)


@pytest.mark.parametrize(
    ("ahead", "behind"),
    [
        (member("z", 1, epoch=6), member("a", 900, epoch=5)),
        (member("z", 8), member("a", 7)),
        (member("a", 7), member("b", 7)),
        (member("z", 0), member("a", 900, fit=False)),
    ],
    ids=["a later epoch", "more transactions", "the name", "a whole log"],
)
def test_ranking_when_two_differ_then_the_more_advanced_is_first(
    ahead: Member, behind: Member
) -> None:
    """Epoch before transactions before name; a log that is not whole comes last."""
    assert ranking([behind, ahead]) == [ahead, behind]


@given(MEMBERS)
def test_turns_when_all_look_at_the_same_then_each_rank_is_given_once(
    members: list[Member],
) -> None:
    """Everybody agrees on the order, so nobody waits for two at the same place."""
    candidates = [each for each in members if each.candidate]
    ranks = [turn_of(each.node, members, lost=0, fit=each.fit).rank for each in candidates]
    assert sorted(ranks) == list(range(len(candidates)))


def test_turn_when_a_candidate_has_not_spoken_since_the_loss_then_it_is_not_final() -> None:
    """It may have more than it announced before; those who are no candidates don't matter."""
    late = member("b", 1, lost=4)
    assert turn_of("a", [member("a", 5), late], lost=5, fit=True) == Turn(0, False)
    watcher = member("c", 1, lost=0, candidate=False)
    assert turn_of("a", [member("a", 5), watcher], lost=5, fit=True) == Turn(0, True)


def test_turn_when_alone_then_it_is_ours() -> None:
    """Listed or not."""
    assert turn_of("a", [member("a")], lost=5, fit=True) == Turn(0, True)
    assert turn_of("a", [], lost=5, fit=True) == Turn(0, True)


def test_turn_when_not_listed_then_it_is_the_last() -> None:
    """Nobody could have known of this node."""
    assert turn_of("a", [member("b"), member("c")], lost=5, fit=True).rank == 2


def test_successor_when_nobody_is_named_then_it_is_the_most_advanced_that_is_connected() -> None:
    """Not this node, not one without a connection, not one with a damaged log, no mere replica."""
    found = successor_of(
        "a",
        [
            member("a", 99),
            member("b", 50, connected=False),
            member("c", 50, fit=False),
            member("d", 50, candidate=False),
            member("e", 7),
            member("f", 8),
        ],
        None,
    )
    assert found == member("f", 8)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("a", "a is the primary already"),
        ("x", "x is not a member, or not alive"),
        ("b", "b is not connected"),
        ("c", "the log of c is not fit"),
        ("d", "d is no candidate"),
        (None, "no other candidate is connected and fit; e: x.db is blocked"),
        ("e", "the log of e is not fit: x.db is blocked"),
    ],
)
def test_successor_when_it_cannot_be_then_the_reason_names_it(
    target: str | None, reason: str
) -> None:
    """What a user reads who asked for a hand-over."""
    members = [
        member("a"),
        member("b", connected=False),
        member("c", fit=False),
        member("d", candidate=False),
        member("e", fit=False, unfit="x.db is blocked"),
    ]
    assert successor_of("a", members, target) == reason


def test_highest_epoch_when_anybody_has_seen_one_then_it_counts() -> None:
    """Seen or in a position."""
    assert highest_epoch([]) == 0
    assert highest_epoch([member("a", epoch=3, epoch_seen=4), member("b", epoch=7)]) == 7
