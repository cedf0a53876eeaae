"""Calls in the helper thread are all answered; what nobody foresaw ends the actor."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from litemq.actors.helper_thread import HelperThread
from litemq.actors.reactor import Reactor
from litemq.errors import LiteMQError

WAIT_MS = 20_000


def collect(helper: HelperThread) -> None:
    """What an actor does when the descriptor fires."""
    poll = select.poll()
    poll.register(helper.fd, select.POLLIN)
    assert poll.poll(WAIT_MS)
    helper.collect()


def fails() -> int:
    raise RuntimeError("nobody foresaw it")


def exits() -> int:
    raise SystemExit(1)


@pytest.mark.parametrize("work", [fails, exits])
@pytest.mark.parametrize("way", ["call", "run"])
def test_call_when_it_raises_what_nobody_foresaw_then_the_actor_dies_of_it(
    work: Callable[[], int], way: str
) -> None:
    """The reactor swallows nothing, so the supervisor starts the actor anew."""
    helper, reactor = HelperThread(), Reactor()
    reactor.on_readable(helper.fd, helper.collect)
    if way == "call":
        helper.call(work, lambda _: None)
    else:
        helper.run(work)
    reactor.later(WAIT_MS / 1000, reactor.stop)
    with pytest.raises((RuntimeError, SystemExit)):
        reactor.run({})


def test_file_when_its_name_can_not_be_one_then_the_actor_dies_of_it() -> None:
    """Also where it is no OSError."""
    helper = HelperThread()
    helper.open_file("a\0b", lambda _: None)
    with pytest.raises(ValueError, match="null"):
        collect(helper)


def test_calls_when_one_before_them_has_failed_then_they_are_answered() -> None:
    """The thread lives on: whoever waits for its end in the actor's last moments is not deaf."""
    helper, got = HelperThread(), []
    helper.call(fails, got.append)
    with pytest.raises(RuntimeError):
        collect(helper)
    helper.call(lambda: 1, got.append)
    collect(helper)
    assert got == [1]


def test_call_when_it_fails_as_foreseen_then_it_is_answered(tmp_path: Path) -> None:
    """A LiteMQError is a result; a file that can't be opened is None; an OSError is logged."""
    helper = HelperThread()
    got: list[object] = []

    def refused() -> int:
        raise LiteMQError("not now")

    helper.call(refused, got.append)
    helper.open_file(str(tmp_path / "none"), got.append)
    helper.run(lambda: os.close(-1))
    helper.call(lambda: 1, got.append)
    while len(got) < 3:
        collect(helper)
    assert str(got[0]) == "not now"
    assert got[1:] == [None, 1]
