"""The search for the point where two histories part, against a comparison of all of them."""

from __future__ import annotations

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.actors.common_point import SAMPLES, Common, CommonPoint


def search(mine: dict[int, int], theirs: dict[int, int]) -> tuple[Common, int]:
    """What is found, and after how many questions."""
    point = CommonPoint(min(mine), max(mine), mine.get)
    questions = 0
    while asked := point.ask():
        questions += 1
        assert len(asked) <= SAMPLES
        assert questions < 20
        found = {txid: theirs[txid] for txid in asked if txid in theirs}
        point.told(min(theirs), max(theirs), found)
    return point.found, questions


def history(first: int, last: int, parts_at: int, seed: int) -> dict[int, int]:
    txids = range(first, last + 1)
    return {txid: txid if txid < parts_at else 10**6 * seed + txid for txid in txids}


@given(
    st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000),
    st.integers(0, 6000),
)  # fmt: skip
def test_search_when_histories_part_anywhere_then_it_finds_the_last_common(
    my_first: int, my_count: int, their_first: int, their_count: int, parts_at: int
) -> None:
    """Whatever either log still holds."""
    mine = history(my_first, my_first + my_count, parts_at, 1)
    theirs = history(their_first, their_first + their_count, parts_at, 2)
    found, _ = search(mine, theirs)
    both = sorted(mine.keys() & theirs.keys())
    same = [txid for txid in both if mine[txid] == theirs[txid]]
    assert found.compared == bool(both)
    assert found.txid == (same[-1] if same else 0)
    if found.txid:
        assert found.parts == (max(mine) > found.txid)


@pytest.mark.parametrize("parts_at", [1, 2, 500_000, 999_999, 1_000_000, 1_000_001])
def test_search_when_the_logs_are_long_then_few_questions_do(parts_at: int) -> None:
    """A million transactions."""
    mine, theirs = history(0, 10**6, parts_at, 1), history(0, 10**6, parts_at, 2)
    found, questions = search(mine, theirs)
    assert found == Common(parts_at - 1, compared=True, parts=parts_at <= 10**6)
    assert questions <= 5


def test_search_when_retention_takes_what_was_asked_then_it_comes_to_an_end() -> None:
    """Answers may lack what the range promised."""
    for answered in ({}, {1: 1}, {50: 50}):
        point = CommonPoint(1, 100, lambda txid: txid)
        for _ in range(200):
            if not point.ask():
                break
            point.told(1, 100, answered)
        assert point.ask() == []
        assert point.found.compared == bool(answered)


def test_search_when_records_come_meanwhile_then_the_histories_do_not_part_there() -> None:
    """The primary's, behind its answer: the replica has taken them in when the search ends."""
    mine = {1: 1, 2: 2}
    point = CommonPoint(1, 2, mine.get)
    mine[3] = 3
    point.told(1, 2, {1: 1, 2: 2})
    assert not point.ask()
    assert point.found == Common(2, compared=True, parts=False)
