"""When a crashed actor is started again, and when the node gives up. Pure.

The caller brings the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 2.0


@dataclass(slots=True)
class Restarts:
    """The crashes of one actor."""

    limit: int
    window_s: float
    count: int = 0
    _recent: list[float] = field(default_factory=list)

    def crashed(self, now_s: float) -> float | None:
        """Seconds to wait before the next start; None when there have been too many crashes."""
        self._recent = [at for at in self._recent if now_s - at < self.window_s]
        self._recent.append(now_s)
        self.count += 1
        if len(self._recent) > self.limit:
            return None
        pause_s: float = FIRST_PAUSE_S * 2 ** (len(self._recent) - 1)
        return min(LONGEST_PAUSE_S, pause_s)
