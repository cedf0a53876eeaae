"""What a backlog leaves in the heap goes back to the system."""

from __future__ import annotations

import pytest

from litemq.actors import heap

MEGABYTES = 64


def test_heap_when_a_backlog_has_passed_then_its_memory_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though some of it is still in use, here and there."""
    monkeypatch.setattr(heap, "_held", 0)
    pages = [bytes(4096) + number.to_bytes(4, "big") for number in range(MEGABYTES * 256)]
    kept = pages[:: len(pages) // 100]
    full = heap._resident()
    del pages
    heap.give_back()
    assert heap._resident() < full - (MEGABYTES // 2 << 20)
    assert len(kept) >= 100


def test_heap_when_the_library_cannot_then_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is no error."""
    monkeypatch.setattr(heap, "_trim", None)
    heap.give_back()
