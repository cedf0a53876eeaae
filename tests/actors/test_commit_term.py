"""When a mount ceases to accept commits, nothing that the kernel was told before counts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from litemq.actors import commit_term
from litemq.actors.commit_term import CommitTerm
from litemq.fs.kernel_cache import CACHED_WRITES_S, LEASED_WRITES_S


class Loop:
    """What was to be called later, and when (seconds from now)."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.later.append((delay_s, call))


class World:
    """A mount's term, in a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ends: bool) -> None:
        self.now_s = 1000.0
        self.asked = 0
        monkeypatch.setattr(commit_term.clock, "now_s", lambda: self.now_s)
        monkeypatch.setattr(commit_term, "open_commits_lock", lambda _config: None)
        self.loop: Any = Loop()
        config: Any = SimpleNamespace(caches_writes=True)
        self.term = CommitTerm(config, self.loop, ends=ends, ask_before_writes=self.ask)

    def ask(self) -> None:
        self.asked += 1


@pytest.fixture
def elected(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch, ends=True)
    world.term.accept(1001.0)
    return world


def test_primary_when_it_is_fixed_then_its_term_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel asks now and then all the same."""
    world = World(monkeypatch, ends=False)
    world.now_s += 1e9
    assert not world.term.over
    assert world.term.cached_writes_s == CACHED_WRITES_S


def test_commits_when_they_are_accepted_then_the_kernel_is_trusted_within_the_lease(
    elected: World,
) -> None:
    """Less and less as it comes to its end."""
    assert not elected.term.over
    assert elected.term.cached_writes_s == LEASED_WRITES_S
    elected.now_s = 1000.97
    assert 0 < elected.term.cached_writes_s < LEASED_WRITES_S
    elected.now_s = 1000.99
    assert elected.term.cached_writes_s == 0
    elected.now_s = 1001.0
    assert elected.term.over


@pytest.mark.parametrize("how", ["fence", "hold"])
def test_writers_when_they_are_refused_or_held_then_the_kernel_asks_at_once(
    elected: World, how: str
) -> None:
    """It was told that it need not for a while."""
    getattr(elected.term, how)()
    assert elected.asked == 1
    assert elected.term.cached_writes_s == 0
    assert elected.term.over == (how == "fence")


def test_lease_when_it_ends_by_itself_then_the_kernel_asks(elected: World) -> None:
    """Nobody has to say so; and not while it is renewed."""
    ((delay_s, look),) = elected.loop.later
    assert 1.0 < delay_s < 1.1
    elected.term.accept(1002.0)
    assert len(elected.loop.later) == 1, "one look at a time"
    elected.now_s += delay_s
    look()
    assert elected.asked == 0
    delay_s, look = elected.loop.later[-1]
    elected.now_s += delay_s
    look()
    assert elected.asked == 1


def test_writers_when_a_hand_over_is_given_up_then_they_go_on(elected: World) -> None:
    """Whoever waits is woken by the next acceptance."""
    elected.term.hold()
    holding = elected.term.holding
    assert holding is not None
    elected.term.accept(1002.0)
    assert holding.is_set
    assert elected.term.holding is None
    assert elected.term.cached_writes_s == LEASED_WRITES_S
