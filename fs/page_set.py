"""Page numbers that are remembered up to a bound; beyond it, that any page may be meant."""

from __future__ import annotations

from collections.abc import Iterable

#: some MiB of memory
MOST_PAGES = 1 << 16


class PageSet:
    """Pages of one database."""

    __slots__ = ("_any", "_numbers")

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._any = False

    def __bool__(self) -> bool:
        return self._any or bool(self._numbers)

    def add(self, numbers: Iterable[int]) -> None:
        if not self._any:
            self._numbers.update(numbers)
            if len(self._numbers) > MOST_PAGES:
                self._numbers.clear()
                self._any = True

    def move_to(self, other: PageSet) -> None:
        """Give all of them to another set."""
        other.add(self._numbers)
        other._any = other._any or self._any
        self._numbers.clear()
        self._any = False

    def take(self) -> list[int] | None:
        """All of them in ascending order, or None for any; the set is empty then."""
        numbers = None if self._any else sorted(self._numbers)
        self._numbers.clear()
        self._any = False
        return numbers
