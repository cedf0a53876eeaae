"""How long a key has stood still, as seen from here.

Always true: time in which nobody answered does not count.
"""

from __future__ import annotations

from litemq.election import clock


class Stillness:
    """Of one key, by the index of its last change."""

    __slots__ = ("_index", "_since_s")

    def __init__(self) -> None:
        self._index, self._since_s = 0, 0.0

    def interrupted(self) -> None:
        """There was no answer, or none in time: what follows counts from the next one."""
        self._index = 0

    def lasts_s(self, index: int) -> float:
        """The key's last change is the one of that index, by an answer that has just come: for how
        long that has been so (seconds on the boot clock).
        """
        now_s = clock.now_s()
        if index != self._index:
            self._index, self._since_s = index, now_s
        return now_s - self._since_s
