"""What counts as silence of an actor, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

from litemq.actors import proc
from litemq.actors.silence import Sample, Silence, Ticks


def test_silence_when_the_watcher_was_not_there_then_it_does_not_count() -> None:
    """A node that was paused for an hour has heard nothing, and has not listened."""
    ticks, silence = Ticks(0.25), Silence()
    now = 100.0
    for _ in range(4):
        silence.goes_on(ticks.passed(now), Sample())
        now += 0.25
    now += 3600.0
    silence.goes_on(ticks.passed(now), Sample())
    assert silence.seconds <= 0.75 + 0.25


def test_silence_when_the_watcher_listens_then_every_second_counts() -> None:
    """A hung actor is found, also where looks come late."""
    ticks, silence = Ticks(0.25), Silence()
    for look in range(41):
        silence.goes_on(ticks.passed(look * 0.5), Sample("S", 5, 7))
    assert silence.seconds == 20.0
    assert silence.exceeds(19.0)


def test_silence_when_it_is_broken_then_it_begins_anew() -> None:
    silence = Silence()
    silence.goes_on(5.0, Sample())
    silence.broken()
    silence.goes_on(1.0, Sample())
    assert silence.seconds == 1.0


def test_silence_when_the_actor_waits_for_a_cpu_then_that_does_not_count() -> None:
    """What it had waited before it was first looked at says nothing."""
    silence = Silence()
    for delay_ns, counts_s in (
        (60_000_000_000, 1.0),
        (60_900_000_000, 1.1),
        (63_000_000_000, 1.1),  # two looks' worth in one: not less than nothing
        (None, 2.1),  # it can't be read any more
    ):
        silence.goes_on(1.0, Sample("S", None, delay_ns))
        assert round(silence.seconds, 6) == counts_s


def test_silence_when_the_actor_is_ready_to_run_then_what_it_ran_counts() -> None:
    """A wait for a CPU that goes on is in no number of the kernel's, nor is what a quota takes. One
    that is busy with nothing is found, the sooner the more CPU it gets.
    """
    starved, busy, slow = Silence(), Silence(), Silence()
    for look in range(101):
        starved.goes_on(1.0, Sample("R", 1_000_000 * look, 5))
        busy.goes_on(1.0, Sample("R", 1_000_000_000 * look, 5))
        slow.goes_on(1.0, Sample("R", 100_000_000 * look, 5))
    assert not starved.exceeds(10.0)
    assert round(busy.seconds) == 101
    assert slow.exceeds(10.0)


def test_silence_when_the_actor_waits_for_disk_or_memory_then_it_has_more_patience() -> None:
    """Of each look that finds it so; but not for ever: it may be hung all the same."""
    for sample in (
        lambda look: Sample("D", 7, 7, by_disk=look % 2 == 0),
        lambda look: Sample("R", look * 10**9, 7, short_us=look * 500_000),
    ):
        silence = Silence()
        looks = 0
        while not silence.exceeds(10.0):
            silence.goes_on(1.0, sample(looks))
            looks += 1
        assert 19 <= looks <= 22
    silence = Silence()
    looks = 0
    while not silence.exceeds(10.0):
        silence.goes_on(1.0, Sample("R", looks * 10**9, 7, short_us=looks * 1_000_000))
        looks += 1
    assert looks == 51


def test_silence_when_a_hung_actor_sleeps_then_no_pressure_around_it_counts() -> None:
    """It waits for a lock, or for an answer: not for memory."""
    silence = Silence()
    for look in range(12):
        silence.goes_on(1.0, Sample("S", 7, 7, short_us=look * 1_000_000))
    assert silence.exceeds(10.0)


def test_sample_when_the_process_lives_then_its_times_are_numbers_that_grow() -> None:
    first, second = (proc.sample(os.getpid(), silent=True) for _ in range(2))
    assert first.state == "R"
    assert None not in (first.ran_ns, first.delay_ns, second.ran_ns)
    assert (second.ran_ns or 0) > (first.ran_ns or 0)
    assert proc.sample(2**22 + 1, silent=True) == Sample("?")


def test_pressure_when_the_kernel_tells_it_then_it_is_read() -> None:
    """In microseconds, of the machine at least."""
    found = proc.short_of_memory_us(os.getpid())
    pressure = Path("/proc/pressure/memory")
    if pressure.exists():
        full = pressure.read_text().splitlines()[-1]
        assert found <= int(full.rpartition("=")[2])
    else:
        assert found == 0
