"""What is news to a hook, and which news a slow one still gets."""

from __future__ import annotations

import dataclasses

import pytest

from litemq.actors.role_news import Calls, RoleNews
from litemq.hooks import RoleChanged

HERE = "tcp://10.0.0.1:7100"
THERE = "tcp://10.0.0.2:7100"


@pytest.fixture
def news() -> RoleNews:
    return RoleNews("a", HERE)


def test_primary_when_said_again_then_it_is_news_once_an_epoch(news: RoleNews) -> None:
    """All fields are what they say; a new term is a new role."""
    assert news.serves(3, "why", 5) == RoleChanged("a", "primary", 3, "a", HERE, 5, "why")
    assert news.serves(3, "why", 6) is None
    again = news.serves(4, "why", 7)
    assert again is not None
    assert again.epoch == 4


def test_deposed_when_it_knows_no_other_then_it_is_told_twice(news: RoleNews) -> None:
    """At once without a primary, and again when there is one."""
    news.serves(3, "why", 1)
    assert news.deposed(3, "lost", 2) == RoleChanged("a", "replica", 3, "", "", 2, "lost")
    found = news.follows("b", THERE, 4, 3)
    assert found == RoleChanged("a", "replica", 4, "b", THERE, 3, "b is the primary")


def test_primary_followed_when_the_same_then_it_is_no_news(news: RoleNews) -> None:
    """By name and address; not its epochs, not its absence, not this node's own lease."""
    assert news.follows("", "", 1, 1) is None
    assert news.follows("a", HERE, 1, 1) is None
    assert news.follows("b", THERE, 1, 1) is not None
    assert news.follows("b", THERE, 2, 2) is None
    assert news.follows("", "", 2, 3) is None
    moved = news.follows("b", "tcp://10.0.0.3:7100", 2, 4)
    assert moved is not None
    assert moved.address == "tcp://10.0.0.3:7100"
    assert news.follows("c", THERE, 3, 5) is not None


def test_change_when_touched_then_it_does_not_change(news: RoleNews) -> None:
    """It is a value."""
    change = news.serves(1, "why", 1)
    assert change is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        change.role = "replica"  # type: ignore[misc]


def test_calls_when_changes_come_faster_then_only_the_newest_waits() -> None:
    """One runs, one waits, the one between is given back; in the end the latest was called."""
    changes = [RoleChanged("a", "replica", number, "", "", 0, "") for number in range(4)]
    calls = Calls()
    assert calls.offer(changes[0]) is None
    assert calls.running is changes[0]
    assert calls.offer(changes[1]) is None
    assert calls.offer(changes[2]) is changes[1]
    assert calls.running is changes[0]
    assert calls.done() is changes[2]
    assert calls.offer(changes[3]) is None
    assert calls.done() is changes[3]
    assert calls.done() is None
    assert calls.running is None
