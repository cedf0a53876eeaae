"""What counts as silence of an actor, and what does not."""

from __future__ import annotations

import os

from litemq.actors import proc
from litemq.actors.silence import Silence, Ticks


def test_silence_when_the_watcher_was_not_there_then_it_does_not_count() -> None:
    """A node that was paused for an hour has heard nothing, and has not listened."""
    ticks, silence = Ticks(0.25), Silence()
    now = 100.0
    for _ in range(4):
        silence.goes_on(ticks.passed(now), None)
        now += 0.25
    now += 3600.0
    assert silence.goes_on(ticks.passed(now), None) <= 0.75 + 0.25


def test_silence_when_the_watcher_listens_then_every_second_counts() -> None:
    """A hung actor is found, also where looks come late."""
    ticks, silence = Ticks(0.25), Silence()
    for look in range(41):
        silence.goes_on(ticks.passed(look * 0.5), 7)
    assert silence.seconds == 20.0


def test_silence_when_it_is_broken_then_it_begins_anew() -> None:
    silence = Silence()
    silence.goes_on(5.0, None)
    silence.broken()
    assert silence.goes_on(1.0, None) == 1.0


def test_silence_when_the_actor_waits_for_a_cpu_then_that_does_not_count() -> None:
    """What it had waited before it was first looked at says nothing."""
    silence = Silence()
    silence.goes_on(1.0, 60_000_000_000)
    silence.goes_on(1.0, 60_900_000_000)
    assert round(silence.seconds, 6) == 1.1
    silence.goes_on(1.0, 63_000_000_000)  # two looks' worth in one: not less than nothing
    assert round(silence.seconds, 6) == 1.1
    silence.goes_on(1.0, None)  # it can't be read any more
    assert round(silence.seconds, 6) == 2.1


def test_run_delay_when_the_process_lives_then_it_is_a_number_that_grows() -> None:
    first = proc.run_delay_ns(os.getpid())
    assert first is not None
    assert (proc.run_delay_ns(os.getpid()) or 0) >= first
    assert proc.run_delay_ns(2**22 + 1) is None
