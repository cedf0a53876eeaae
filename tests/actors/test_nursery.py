"""Children that are held: made at once, at work from their release on, and never left behind."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from leftovers import has_ended
from waiting import eventually

from litemq.actors.nursery import Exited, Nursery, Refused, Started


def work(notes: Path, begin: Callable[[], None]) -> int:
    """Note how far it is come; what an actor does, in small."""
    notes.write_text("made")
    begin()
    notes.write_text("begun")
    return 7


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    opened = Nursery.open("litemq: nursery of a test")
    yield opened
    opened.close()


def noted(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def started(nursery: Nursery) -> int:
    (report,) = nursery.reports(10.0)
    assert isinstance(report, Started)
    return report.pid


def test_child_when_it_is_held_then_it_works_from_its_release_on(
    nursery: Nursery, tmp_path: Path
) -> None:
    """What comes before is done meanwhile; others come and go."""
    held, free = tmp_path / "held", tmp_path / "free"
    nursery.start(partial(work, held), held=True)
    pid = started(nursery)
    eventually(lambda: noted(held), until="made")
    nursery.start(partial(work, free))
    other = started(nursery)
    assert nursery.reports(10.0) == [Exited(other, 7)]
    assert free.read_text() == "begun"
    assert held.read_text() == "made"
    nursery.release(pid)
    assert nursery.reports(10.0) == [Exited(pid, 7)]
    assert held.read_text() == "begun"


def test_release_when_it_comes_before_the_child_waits_then_it_counts(
    nursery: Nursery, tmp_path: Path
) -> None:
    for number in range(20):
        notes = tmp_path / str(number)
        nursery.start(partial(work, notes), held=True)
        pid = started(nursery)
        nursery.release(pid)
        assert nursery.reports(10.0) == [Exited(pid, 7)]
        assert notes.read_text() == "begun"


def test_child_when_it_is_killed_while_held_then_that_is_reported(
    nursery: Nursery, tmp_path: Path
) -> None:
    """Its release then is of no harm to anybody."""
    nursery.start(partial(work, tmp_path / "a"), held=True)
    pid = started(nursery)
    eventually(lambda: noted(tmp_path / "a"), until="made")
    os.kill(pid, signal.SIGKILL)
    assert nursery.reports(10.0) == [Exited(pid, -signal.SIGKILL)]
    nursery.release(pid)
    nursery.start(partial(work, tmp_path / "b"))
    other = started(nursery)
    assert nursery.reports(10.0) == [Exited(other, 7)]
    assert (tmp_path / "a").read_text() == "made"


def test_nursery_when_it_is_killed_then_who_is_held_ends(nursery: Nursery, tmp_path: Path) -> None:
    """Without having begun."""
    pids = []
    for name in ("a", "b"):
        nursery.start(partial(work, tmp_path / name), held=True)
        pids.append(started(nursery))
        eventually(lambda name=name: noted(tmp_path / name), until="made")
    os.kill(nursery.pid, signal.SIGKILL)
    for pid in pids:
        eventually(lambda pid=pid: has_ended(pid))
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["made", "made"]


def test_child_when_the_system_has_no_process_for_it_then_that_is_told_and_the_next_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that others have used up does not end the nursery."""
    fork, forked = os.fork, [0]

    def refusing() -> int:
        forked[0] += 1
        if forked[0] in (2, 3):  # the nursery's own first two
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", refusing)
    nursery = Nursery.open("litemq: nursery of a test")
    try:
        for held in (False, True):
            nursery.start(partial(work, tmp_path / "a"), held=held)
            (report,) = nursery.reports(10.0)
            assert isinstance(report, Refused)
            assert "Resource temporarily unavailable" in report.reason
        nursery.start(partial(work, tmp_path / "b"))
        pid = started(nursery)
        assert nursery.reports(10.0) == [Exited(pid, 7)]
    finally:
        nursery.close()
    assert not (tmp_path / "a").exists()
