"""How long an actor has been silent, in time that counts against it. Pure: the caller measures.

A stretch counts as far as the watcher itself was there: if the whole node was paused (a container,
a virtual machine, a laptop), or the watcher had no CPU, nobody knows what the actor had said.
What the actor waited for a CPU does not count either: it is starved, not hung. Waits for a disk or
for memory count in the end only: an actor that does nothing else is slow, and one that only seems
to is found all the same, after `MOST` times the patience.
"""

from __future__ import annotations

from dataclasses import dataclass

#: waits for disk and memory stretch the patience to so many times itself at most
MOST = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment: its main thread."""

    #: as in /proc/PID/stat; "" if unknown
    state: str = ""
    #: what it has run, and waited for a CPU, in all its life; None if unknown
    ran_ns: int | None = None
    delay_ns: int | None = None
    #: it waits in a way that no signal ends, and not for a mount
    by_disk: bool = False
    #: time in which processes around it got no further for want of memory, since some moment (us)
    short_us: int = 0


@dataclass(slots=True)
class Silence:
    """Of one actor."""

    seconds: float = 0.0
    #: of these, as far as can be told, it waited for a disk or for memory
    blocked_s: float = 0.0
    _last: Sample = Sample()

    def broken(self) -> None:
        """A sign of life."""
        self.seconds = self.blocked_s = 0.0

    def goes_on(self, seen_s: float, now: Sample) -> None:
        """`seen_s` more have passed for the watcher, at whose end it is as `now` says."""
        last, self._last = self._last, now
        counts_s = max(0.0, seen_s - _starved_s(seen_s, last, now))
        self.seconds += counts_s
        if now.by_disk:
            self.blocked_s += counts_s
        elif now.state == "R":  # a hung one that sleeps is not short of anything
            self.blocked_s += min(counts_s, max(0, now.short_us - last.short_us) / 1e6)

    def exceeds(self, patience_s: float) -> bool:
        """Whether it is to be taken for hung."""
        return self.seconds - self.blocked_s > patience_s or self.seconds > MOST * patience_s


def _starved_s(seen_s: float, last: Sample, now: Sample) -> float:
    """For so long of `seen_s` there was no CPU for it."""
    starved_s = 0.0
    if now.delay_ns is not None and last.delay_ns is not None:
        starved_s = max(0, now.delay_ns - last.delay_ns) / 1e9
    # The kernel adds a wait when it is over, and none of what a quota of the group takes away.
    if now.state == last.state == "R" and now.ran_ns is not None and last.ran_ns is not None:
        starved_s = max(starved_s, seen_s - (now.ran_ns - last.ran_ns) / 1e9)
    return starved_s


@dataclass(slots=True)
class Ticks:
    """The watcher's own time. It looks every `period_s`."""

    period_s: float
    _last_s: float | None = None

    def passed(self, now_s: float) -> float:
        """What of the time since the last look it has seen: one period, if it comes late."""
        last_s, self._last_s = self._last_s, now_s
        if last_s is None:
            return 0.0
        return now_s - last_s if now_s - last_s <= 2 * self.period_s else self.period_s
