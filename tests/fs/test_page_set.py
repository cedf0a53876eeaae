"""Page numbers are remembered up to a bound."""

from __future__ import annotations

import pytest

from litemq.fs import page_set
from litemq.fs.page_set import PageSet


def test_pages_when_they_are_taken_then_they_ascend_and_none_is_left() -> None:
    """Each once."""
    pages = PageSet()
    pages.add([3, 1])
    pages.add([3, 2])
    assert pages
    assert pages.take() == [1, 2, 3]
    assert not pages


def test_pages_when_they_are_too_many_then_any_may_be_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also in the set that they are moved to."""
    monkeypatch.setattr(page_set, "MOST_PAGES", 2)
    pages, other = PageSet(), PageSet()
    pages.add([1, 2, 3])
    pages.add([4])
    pages.move_to(other)
    assert not pages
    assert other.take() is None
    assert other.take() == []
