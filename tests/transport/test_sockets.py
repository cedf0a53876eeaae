"""How many sockets a process may have, and connections that go silent."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from forgetful_router import ForgetfulRouter
from ports import free_port
from waiting import eventually

from litemq.errors import LiteMQError
from litemq.transport import messages as m
from litemq.transport import sockets
from litemq.transport.sockets import Publisher, Receiver, Sender, close_all

USUAL = 1024


@pytest.fixture
def many_files() -> Iterator[None]:
    """Open files as an actor may have them; two for each socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 4 * sockets.MAX_SOCKETS
    if hard != resource.RLIM_INFINITY and hard < most:
        pytest.skip(f"this process may not have more than {hard} descriptors")
    close_all()
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    yield
    close_all()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_senders_when_there_is_one_for_every_replica_then_all_are_made(
    many_files: None, tmp_path: Path
) -> None:
    """More than ZeroMQ's usual limit allows: a publisher may need them."""
    address = f"ipc://{tmp_path}/socket"
    receiver = Receiver.bind(address)
    senders = [Sender(address) for _ in range(USUAL + 10)]
    assert senders[-1].send(m.PublisherStarted())
    assert receiver.wait(20_000)
    for each in (*senders, receiver):
        each.close()


def test_sender_when_no_socket_is_left_then_it_is_a_litemq_error(tmp_path: Path) -> None:
    """Who sends to many can do without one of them."""
    close_all()
    address = f"ipc://{tmp_path}/socket"
    receiver = Receiver.bind(address)
    senders: list[Sender] = []
    with pytest.raises(LiteMQError, match="no socket is left"):
        senders.extend(Sender(address) for _ in range(sockets.MAX_SOCKETS + 1))
    assert len(senders) > USUAL
    for each in (*senders, receiver):
        each.close()
    close_all()


@pytest.mark.parametrize("kind", ["sender", "publisher"])
def test_connection_when_a_router_forgets_it_then_another_is_made(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Neither end is told; what is sent behind it arrives."""
    monkeypatch.setattr(sockets, "ASK_MS", 50)
    monkeypatch.setattr(sockets, "SILENT_MS", 300)
    port = free_port()
    address, router = f"tcp://127.0.0.1:{port}", ForgetfulRouter(port)
    through = f"tcp://127.0.0.1:{router.port}"
    if kind == "sender":
        receiver = Receiver.bind(address)
        sender = Sender(through)
        send, ends = sender.send, (sender, receiver)
    else:
        publisher = Publisher(address, hwm=100)
        receiver = Receiver.subscribe(through, hwm=100)
        ends = (publisher, receiver)

        def send(message: m.Message) -> bool:
            publisher.publish(None, message)
            return True

    def arrives() -> bool:
        send(m.PublisherStarted())
        return receiver.wait(50) and bool(list(receiver.drain()))

    eventually(arrives, what="something arrives")
    router.forget()
    eventually(lambda: router.made > 1, what="the connection is made anew")
    eventually(arrives, what="something arrives again")
    for each in ends:
        each.close()
    router.close()


def test_receiver_when_it_notes_peers_then_it_knows_where_each_datagram_came_from() -> None:
    """The host alone."""
    address = f"tcp://127.0.0.1:{free_port()}"
    receiver, sender = Receiver.bind(address, note_peers=True), Sender(address)
    assert sender.send(m.PublisherStarted())
    assert receiver.wait(20_000)
    assert [type(message) for message, _ in receiver.drain()] == [m.PublisherStarted]
    assert receiver.peer == "127.0.0.1"
    for each in (sender, receiver):
        each.close()
