"""Who outlives its node by a moment: it knows when the others are gone, and ends in time."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from leftovers import has_ended
from waiting import eventually

from litemq.actors import lifeline
from litemq.actors.nursery import Exited, Nursery, Started

PR_SET_PDEATHSIG = 1


def survive(notes: Path, _begin: Callable[[], None]) -> int:
    """Note what it learns of the others."""
    signal.signal(lifeline.ORPHANED, lambda *_: notes.write_text("told"))
    lifeline.outlive()
    notes.write_text("made")
    while notes.read_text() != "told":
        signal.pause()
    while not lifeline.has_ended(0.05):
        notes.write_text("waiting")
    notes.write_text("ended")
    return 0


def hold(let_go: bool, _begin: Callable[[], None]) -> int:
    """A mount that no signal of the kernel's ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    if let_go:
        lifeline.let_go()
    signal.pause()
    return 0


def hang(_begin: Callable[[], None]) -> int:
    """Nothing that is written in Python ends this."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    lifeline.end_after(0.1)
    ctypes.PyDLL(None).sleep(3600)  # with the interpreter's lock
    return 0


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    opened = Nursery.open("litemq: nursery of a test")
    yield opened
    if opened.fileno() >= 0:
        opened.close()


def started(nursery: Nursery) -> int:
    (report,) = nursery.reports(10.0)
    assert isinstance(report, Started)
    return report.pid


@pytest.fixture
def new_holder(nursery: Nursery) -> Iterator[Callable[[bool], int]]:
    pids: list[int] = []

    def make(let_go: bool) -> int:
        nursery.start(partial(hold, let_go))
        pids.append(started(nursery))
        eventually(lambda: Path(f"/proc/{pids[-1]}/syscall").read_text().split()[0] == PAUSE)
        return pids[-1]

    yield make
    for pid in pids:
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


#: the number of the system call in which a holder waits
PAUSE = "34" if os.uname().machine == "x86_64" else "73"


def test_lifeline_when_one_who_holds_it_lives_then_it_has_not_ended(
    nursery: Nursery, new_holder: Callable[[bool], int], tmp_path: Path
) -> None:
    """The nursery is dead, and so is all that lives on."""
    notes = tmp_path / "notes"
    nursery.start(partial(survive, notes), outlives=True)
    survivor = started(nursery)
    holder, other = new_holder(False), new_holder(True)
    eventually(lambda: notes.exists() and notes.read_text() == "made")
    os.kill(nursery.pid, signal.SIGKILL)
    eventually(notes.read_text, until="waiting")
    os.kill(holder, signal.SIGKILL)
    eventually(notes.read_text, until="ended")
    eventually(lambda: has_ended(survivor))
    assert not has_ended(other), "who has let go is not waited for"


def test_nursery_when_it_is_closed_then_the_survivor_has_its_moment(
    nursery: Nursery, new_holder: Callable[[bool], int], tmp_path: Path
) -> None:
    """It hears the end of the others, and is gone itself when the nursery is."""
    notes = tmp_path / "notes"
    nursery.start(partial(survive, notes), outlives=True)
    survivor = started(nursery)
    holder = new_holder(False)
    eventually(lambda: notes.exists() and notes.read_text() == "made")
    nursery.close()
    assert notes.read_text() == "ended"
    assert has_ended(holder)
    assert has_ended(survivor)


def test_survivor_when_it_hangs_then_the_kernel_ends_it(nursery: Nursery) -> None:
    """Without a line of its own being run."""
    begun_s = time.monotonic()
    nursery.start(hang)
    pid = started(nursery)
    assert nursery.reports(20.0) == [Exited(pid, -signal.SIGALRM)]
    assert time.monotonic() - begun_s < 20


def test_child_when_the_nursery_dies_before_it_takes_its_first_step_then_it_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody would ever end it, and it would keep the node's lock."""
    here, real = os.getpid(), lifeline.die_with_parent
    told, worked = tmp_path / "pid", tmp_path / "worked"

    def slow(parent: int) -> None:
        if os.getppid() != here:  # a child; the nursery does as always
            nursery = os.getppid()
            told.write_text(f"{os.getpid()}\n")
            while os.getppid() == nursery:
                time.sleep(0.001)
        real(parent)

    def work(begin: Callable[[], None]) -> int:
        worked.touch()
        return 0

    monkeypatch.setattr(lifeline, "die_with_parent", slow)
    nursery = Nursery.open("litemq-test: nursery")
    nursery.start(work)
    eventually(lambda: told.exists() and told.read_text().endswith("\n"), what="it is forked")
    child = int(told.read_text())
    os.kill(nursery.pid, signal.SIGKILL)
    eventually(lambda: has_ended(child), what="the child ends")
    nursery.close()
    assert not worked.exists()
