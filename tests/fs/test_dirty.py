"""What counts as dirty: while a gate is held, and how much of it is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from litemq.fs import capture as captures
from litemq.fs.capture import DatabaseCapture

PAGE = 4096


@pytest.fixture
def capture() -> DatabaseCapture:
    return DatabaseCapture("a.db")


def held(
    capture: DatabaseCapture, meanwhile: Callable[[], None], *, proven: bool = True
) -> DatabaseCapture:
    """A gate during which something happens."""

    async def gate() -> bool:
        meanwhile()
        return proven

    asyncio.run(capture.forget_behind(gate()))
    return capture


def test_pages_when_a_gate_has_shown_them_in_the_log_then_they_are_not_dirty(
    capture: DatabaseCapture,
) -> None:
    """Until then they are, and they stay so if it has not."""
    capture.note_write(0, PAGE)
    assert held(capture, lambda: None, proven=False).dirty.lengths == {0: PAGE}
    assert held(capture, lambda: None).dirty.lengths == {}


@pytest.mark.parametrize("offset", [0, PAGE, 5 * PAGE])
def test_page_when_it_is_written_while_a_gate_is_held_then_it_stays_dirty(
    capture: DatabaseCapture, offset: int
) -> None:
    """Also in a place that was dirty before, whole or as the next in the order of the file."""
    capture.note_write(0, PAGE)
    capture.note_write(PAGE, PAGE)
    held(capture, lambda: capture.note_write(offset, PAGE))
    assert any(start <= offset < start + length for start, length in capture.dirty.lengths.items())
    assert held(capture, lambda: None).dirty.lengths == {}


def test_page_when_two_gates_overlap_then_what_came_in_either_stays_dirty(
    capture: DatabaseCapture,
) -> None:
    """The one that ends first does not forget what the other has to know."""
    capture.note_write(0, PAGE)

    def second() -> None:
        capture.note_write(0, PAGE)

    async def both() -> None:
        first_held, second_done = asyncio.Event(), asyncio.Event()

        async def first() -> bool:
            first_held.set()
            await second_done.wait()
            return True

        async def other() -> bool:
            second()
            return True

        waiting = asyncio.create_task(capture.forget_behind(first()))
        await first_held.wait()
        await capture.forget_behind(other())
        second_done.set()
        await waiting

    asyncio.run(both())
    assert capture.dirty.lengths == {0: PAGE}


def test_writes_when_they_follow_each_other_then_they_are_one_place(
    capture: DatabaseCapture,
) -> None:
    """As SQLite writes a large transaction: no memory for each page."""
    for number in range(1000):
        capture.note_write(number * PAGE, PAGE)
    assert capture.dirty.lengths == {0: 1000 * PAGE}
    assert capture.dirty.page_numbers(PAGE) == list(range(1, 1001))


def test_writes_when_they_are_everywhere_then_everything_is_compared(
    capture: DatabaseCapture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than to remember each."""
    monkeypatch.setattr(captures, "MOST_PLACES", 100)
    for number in range(101):
        capture.note_write(number * 3 * PAGE, PAGE)
    assert capture.everything
    assert not capture.dirty.lengths
    assert capture.dirty.page_numbers(PAGE) is None


def test_pages_when_a_gate_has_shown_them_in_the_log_then_they_are_to_be_proven(
    capture: DatabaseCapture,
) -> None:
    """It shows what the WAL holds, and not what was written."""
    capture.note_write(2 * PAGE, PAGE)
    assert held(capture, lambda: None).claimed.page_numbers(PAGE) == [3]


def test_file_when_it_is_gone_then_nothing_is_known_of_the_next(capture: DatabaseCapture) -> None:
    """But for what bears the names of its journal and its WAL, which may still be there."""
    capture.note_write(0, PAGE)
    capture.claimed.note(0, PAGE)
    capture.overwritten = capture.journal_active = True
    capture.wal_end = 4152
    capture.file_gone()
    assert not capture.changed
    assert not capture.claimed
    assert not capture.overwritten
    assert capture.journal_active
    assert capture.wal_end == 4152
