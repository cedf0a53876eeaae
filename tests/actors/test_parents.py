"""Whom a replica follows: the order of its parents, and when one is given up."""

from __future__ import annotations

import pytest

from litemq.actors.parents import ORPHAN_S, SILENT_S, Parents, loop

A, B, P = "tcp://10.0.0.2:7100", "tcp://10.0.0.3:7100", "tcp://10.0.0.1:7100"


def parents(*upstream: str, primary: str = P, heartbeat_s: float = 0.2) -> Parents:
    made = Parents(upstream, heartbeat_s=heartbeat_s)
    made.primary = primary
    made.begin(100.0)
    return made


def test_places_when_the_primary_is_known_then_it_is_the_last() -> None:
    """Unless it stands in the list itself."""
    assert parents(A, B).places == (A, B, P)
    assert parents(P, A).places == (P, A)
    assert parents(A, primary="").places == (A,)
    assert parents().places == (P,)
    assert parents(primary="").address == ""


def test_next_when_taken_again_and_again_then_all_come_in_turn() -> None:
    """The first one comes after the last."""
    made = parents(A, B)
    seen = [made.address]
    for _ in range(3):
        assert made.turn_to_next()
        seen.append(made.address)
    assert seen == [A, B, P, A]


def test_parent_when_silent_then_it_is_left_if_there_is_another() -> None:
    """Each heartbeat starts the time anew."""
    made = parents(A)
    made.heard(102.0, orphan=False)
    assert not made.why_leave(102.0 + SILENT_S)
    assert made.why_leave(102.1 + SILENT_S)
    alone = parents()
    assert not alone.why_leave(1e6)
    assert not alone.turn_to_next()
    assert alone.address == P


def test_parent_when_its_heartbeats_are_rare_then_it_is_given_more_time() -> None:
    """Three of them may be lost."""
    made = parents(A, heartbeat_s=10.0)
    assert not made.why_leave(130.0)
    assert made.why_leave(130.1)


def test_parent_when_it_sends_records_then_it_is_not_silent_and_may_be_an_orphan() -> None:
    """A heartbeat may wait behind many of them."""
    made = parents(A)
    for seconds in range(int(ORPHAN_S) + 1):
        made.sent_records(100.0 + seconds)
        assert not made.why_leave(100.0 + seconds)
    made.sent_records(101.0 + ORPHAN_S)
    assert made.why_leave(101.0 + ORPHAN_S) == "it does not hear the primary"


def test_parent_when_it_stays_an_orphan_then_it_is_left_later_than_a_dead_one() -> None:
    """The tree should be as it was when the primary has been restarted."""
    made = parents(A)
    for tenths in range(int(ORPHAN_S * 10) + 1):
        made.heard(100.0 + tenths / 10, orphan=True)
        assert not made.why_leave(100.0 + tenths / 10)
    made.heard(100.1 + ORPHAN_S, orphan=True)
    assert made.why_leave(100.1 + ORPHAN_S)
    made.heard(100.2 + ORPHAN_S, orphan=False)
    assert not made.why_leave(100.2 + ORPHAN_S)


def test_primary_when_another_is_elected_then_only_its_followers_turn() -> None:
    """Who follows a relay stays with it; who follows the primary follows the new one."""
    made = parents(A)
    made.primary = B
    assert made.address == A
    made.turn_to_next()
    assert made.address == B
    made.primary = P
    assert made.address == P
    made.primary = ""
    assert made.address == A


@pytest.mark.parametrize(
    ("node", "above", "follows"),
    [
        ("p", [], True),
        ("own", [], True),  # a primary of that name: two names, but no loop
        ("a", ["p"], True),
        ("a", ["p", "own"], False),
        ("own", ["p"], False),
        ("a", ["p", *"bcdefghijklmno"], True),
        ("a", ["p", *"bcdefghijklmnop"], False),
    ],
)
def test_relay_when_this_node_is_above_it_then_it_is_not_followed(
    node: str, above: list[str], follows: bool
) -> None:
    """Nor one that is too deep."""
    assert (not loop("own", node, above, most=16)) is follows
