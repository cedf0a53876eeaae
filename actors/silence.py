"""How long an actor has been silent, in time that counts against it. Pure: the caller measures.

A stretch counts as far as the watcher itself was there: if the whole node was paused (a container,
a virtual machine, a laptop), or the watcher had no CPU, nobody knows what the actor had said.
What the actor waited for a CPU does not count either: it is starved, not hung.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Silence:
    """Of one actor."""

    seconds: float = 0.0
    _delay_ns: int | None = None

    def broken(self) -> None:
        """A sign of life."""
        self.seconds = 0.0

    def goes_on(self, seen_s: float, delay_ns: int | None) -> float:
        """`seen_s` more have passed for the watcher; the seconds that count by now.

        `delay_ns` is how long the process has waited for a CPU in all its life, None if unknown.
        """
        starved_s = 0.0
        if delay_ns is not None and self._delay_ns is not None:
            starved_s = max(0, delay_ns - self._delay_ns) / 1e9
        self._delay_ns = delay_ns
        self.seconds += max(0.0, seen_s - starved_s)
        return self.seconds


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
