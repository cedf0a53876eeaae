"""How many sockets a process may have, and what happens when there are no more."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from litemq.errors import LiteMQError
from litemq.transport import messages as m
from litemq.transport import sockets
from litemq.transport.sockets import Receiver, Sender, close_all

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
