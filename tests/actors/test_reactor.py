"""The poll loop: nothing that arrives is left lying, and what has the same pace comes together."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from litemq.actors import reactor as reactor_module
from litemq.actors.reactor import Reactor
from litemq.transport import messages as m
from litemq.transport.sockets import RECEIVE_BURST, Receiver, Sender, close_all

MESSAGES = 200


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/socket"


def test_reactor_when_more_comes_than_it_takes_at_once_then_it_takes_all(address: str) -> None:
    """A burst takes several turns, and the descriptor tells of it once only."""
    receiver = Receiver.bind(address)
    sender = Sender(address)
    reactor = Reactor()
    count = 3 * RECEIVE_BURST + 7
    got: list[m.Message] = []

    def take(message: m.Message, _payload: list[bytes]) -> None:
        got.append(message)
        if len(got) == count:
            reactor.stop()

    for _ in range(count):
        assert sender.send(m.PublisherStarted())
    assert receiver.wait(5000)  # looked into: from here on nothing may fire any more
    reactor.on_message(receiver, take)
    reactor.run()
    assert len(got) == count
    close_all()


def test_reactor_when_one_sends_while_another_is_read_then_both_are_read(tmp_path: Path) -> None:
    """Handlers that cause each other's datagrams lose none of them."""
    addresses = [f"ipc://{tmp_path}/{name}" for name in ("left", "right")]
    receivers = [Receiver.bind(each) for each in addresses]
    senders = [Sender(each) for each in addresses]
    reactor = Reactor()
    turns = 0

    def pass_on(to: int) -> None:
        nonlocal turns
        turns += 1
        if turns == 1000:
            reactor.stop()
        senders[to].send(m.PublisherStarted())

    reactor.on_message(receivers[0], lambda _message, _payload: pass_on(1))
    reactor.on_message(receivers[1], lambda _message, _payload: pass_on(0))
    senders[0].send(m.PublisherStarted())
    reactor.run()
    assert turns == 1000
    close_all()


def test_every_when_paces_are_multiples_then_they_come_in_the_same_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each call of the slower one comes in a turn of the faster one."""
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 0.0005 * next(looks))
    monkeypatch.setattr(reactor_module, "time", clock)
    reactor = Reactor()
    turn = 0
    fast: list[int] = []
    slow: list[int] = []

    def next_turn() -> bool:
        nonlocal turn
        turn += 1
        if len(slow) == 5:
            reactor.stop()
        return False

    reactor.after_events(next_turn)
    reactor.every(0.01, lambda: fast.append(turn))
    reactor.every(0.02, lambda: slow.append(turn))
    reactor.run()
    assert set(slow[2:]) <= set(fast)
    assert len(set(fast[1:])) == len(fast[1:]), "twice in a turn"


def test_turn_when_messages_are_many_then_timers_have_theirs_between(tmp_path: Path) -> None:
    """An actor that is flooded still says that it lives, and brings what it got to the disk."""
    receiver = Receiver.bind(f"ipc://{tmp_path}/in")
    sender = Sender(f"ipc://{tmp_path}/in")
    for number in range(MESSAGES):
        assert sender.send(m.CaptureEcho(number))
    reactor = Reactor()
    handled: list[int] = []
    between: list[int] = []

    def slow(_message: m.Message, _payload: list[bytes]) -> None:
        time.sleep(0.002)
        handled.append(1)
        if len(handled) == MESSAGES:
            reactor.stop()

    reactor.on_message(receiver, slow)
    reactor.every(0.001, lambda: between.append(len(handled)))
    reactor.later(20.0, reactor.stop)
    reactor.run()
    sender.close(linger_ms=0)
    receiver.close()
    assert len(handled) == MESSAGES
    assert [count for count in between if 0 < count < 100]
