"""When a crashed actor is started again, and when the node gives up."""

from __future__ import annotations

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
from hypothesis import given
from hypothesis import strategies as st

from litemq.actors.restarts import FIRST_PAUSE_S, LONGEST_PAUSE_S, Restarts

#: pauses between one crash and the next
GAPS = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=30)


def times(gaps: list[float]) -> list[float]:
    now, found = 0.0, []
    for gap in gaps:
        now += gap
        found.append(now)
    return found


def test_crash_when_it_is_the_first_then_the_actor_is_back_at_once() -> None:
    """Twenty milliseconds: whoever waits in the mount hardly notices."""
    assert Restarts(5, 60.0).crashed(1000.0) == FIRST_PAUSE_S


def test_crashes_when_they_follow_each_other_then_pauses_double_up_to_a_limit() -> None:
    """0.02, 0.04, 0.08 and so on, never more than two seconds."""
    restarts = Restarts(12, 60.0)
    pauses = [restarts.crashed(float(second)) for second in range(12)]
    assert pauses == [min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**n) for n in range(12)]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_crashes_when_one_more_than_the_limit_then_the_node_gives_up() -> None:
    """`crash-limit` crashes are survived within `crash-window`; the next one is the last."""
    restarts = Restarts(3, 60.0)
    assert [restarts.crashed(now) is None for now in (0.0, 1.0, 2.0, 3.0)] == [False] * 3 + [True]


def test_crashes_when_the_window_has_passed_then_they_are_forgotten() -> None:
    """The first of them was exactly a window ago: it no longer counts."""
    restarts = Restarts(1, 60.0)
    assert restarts.crashed(0.0) == FIRST_PAUSE_S
    assert restarts.crashed(60.0) == FIRST_PAUSE_S
    assert restarts.crashed(119.9) is None


@given(GAPS, st.integers(1, 6), st.floats(0.1, 200))
def test_crashes_when_at_any_times_then_the_node_gives_up_at_the_limit_and_never_before(
    gaps: list[float], limit: int, window_s: float
) -> None:
    """Compared with counting by hand; every pause is within its limits, every crash counts."""
    restarts = Restarts(limit, window_s)
    past: list[float] = []
    for now in times(gaps):
        past.append(now)
        within = sum(now - each < window_s for each in past)
        pause_s = restarts.crashed(now)
        assert (pause_s is None) == (within > limit)
        assert pause_s is None or FIRST_PAUSE_S <= pause_s <= LONGEST_PAUSE_S
    assert restarts.count == len(gaps)
