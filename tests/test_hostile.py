"""Strangers at every TCP port: the node says so once, in one line, and lives on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator

import pytest
import zmq
from nodes import Cluster, Node
from waiting import eventually

from litemq.transport import messages as m
from litemq.transport.frames import MAX_FRAME_BYTES, PREAMBLE, pack, unpack

pytestmark = pytest.mark.fuse

STRANGE = "dropped a strange message"
#: signature, version 3.0 and mechanism NULL, as ZMTP's greeting has them
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster(replicas=1)
    for node in cluster.nodes:
        node.announce(STRANGE)
    with cluster.primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)")
    cluster.agree("a.db")
    return cluster


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def actors(cluster: Cluster) -> dict[str, int]:
    found = {}
    for node in cluster.nodes:
        status = node.status()
        assert status is not None
        found.update({f"{node.name} {actor.name}": actor.pid for actor in status.actors})
    return found


def ports(cluster: Cluster) -> list[tuple[Node, int]]:
    """Where somebody listens: stream and requests of the primary, answers of the replica."""
    primary, replica = cluster.nodes
    return [(primary, primary.port), (primary, primary.port + 1), (replica, replica.port + 2)]


def alive(cluster: Cluster, before: dict[str, int]) -> None:
    """No actor has ended, and what is committed still arrives."""
    with cluster.primary.connect("a.db") as app:
        app.sql("INSERT INTO t VALUES(1)")
        cluster.agree("a.db")
    assert actors(cluster) == before


def test_raw_bytes_when_sent_to_every_port_then_the_nodes_live_on(shared: Cluster) -> None:
    """Random bytes, HTTP, a greeting with nonsense behind it, half a greeting, nothing."""
    before = actors(shared)
    noise = random.Random(7)
    openings = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        noise.randbytes(5000),
        GREETING[:11],
        GREETING + noise.randbytes(5000),
        GREETING + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH" + noise.randbytes(999),
        GREETING + b"\x02" + (1 << 62).to_bytes(8, "big") + b"x" * 1000,
        b"\xff" * 70000,
    ]
    for _, port in ports(shared):
        for opening in openings:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                stranger.settimeout(5)
                # thrown out in the middle is as good
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    stranger.sendall(opening)
    alive(shared, before)


def nonsense() -> list[list[bytes]]:
    """Multipart messages that a well-behaved ZeroMQ peer might send by mistake, or not."""
    noise = random.Random(11)
    good = pack(m.CancelTransfer("stranger", 1))[0]
    return [
        [b""],
        [b"hello"],
        [noise.randbytes(300)],
        [b"XYZ\x01" + good[4:]],
        [PREAMBLE[:3] + b"\x63" + good[4:]],
        [PREAMBLE],
        [good[:-1]],
        [good + b"\0"],
        [good, *[b"x"] * 50],
        [PREAMBLE + b"\x81\xa4type\xafUnknownMessage_"],
        [PREAMBLE + b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94."],
        [PREAMBLE + b"\xdd\xff\xff\xff\xff"],
        [b"\x91" * 100_000],
    ]


def test_messages_when_they_are_nonsense_then_they_are_dropped_with_a_warning(
    shared: Cluster, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Wrong preamble, wrong version, cut short, too many frames: on both sockets that listen."""
    before = actors(shared)
    for node, port in ports(shared)[1:]:
        count = len(node.logged(STRANGE))
        push = context.socket(zmq.PUSH)
        push.connect(f"tcp://127.0.0.1:{port}")
        for frames in nonsense():
            push.send_multipart(frames)

        def warned(node: Node = node, count: int = count, push: zmq.Socket[bytes] = push) -> bool:
            push.send(b"again")  # a line a second at most: the next one counts what was held back
            return len(node.logged(STRANGE)) > count

        eventually(warned)
        push.close(linger=1000)
    alive(shared, before)


def test_messages_when_valid_but_absurd_then_they_do_no_harm(
    shared: Cluster, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Requests for databases that do not exist, names that are paths, numbers out of range."""
    before = actors(shared)
    primary, replica = shared.nodes
    far = m.WirePosition(1, 1 << 60, "f" * 16)
    nowhere = "tcp://127.0.0.1:1"
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{primary.port + 1}")
    for number, name in enumerate(("nothing.db", "../../../etc/passwd", "a.db", "a\0b", ".", "/")):
        push.send_multipart(pack(m.RequestRecords("x", nowhere, number, name, far, 1)))
        push.send_multipart(pack(m.GrantCredit("x", number, 1 << 32)))
        push.send_multipart(
            pack(
                m.RequestRepair("x", nowhere, number, name, 4096, 1 << 31, 0, 1, True),
                b"x" * 24,
            )
        )
    push.send_multipart(pack(m.ReplicaAlive("x", "not an address", False, [])))
    for number, answers in enumerate(
        ("tcp://%%%:1", "tcp://a:99999", "ipc:///tmp/x", "inproc://x")
    ):
        push.send_multipart(pack(m.RequestRecords(f"y{number}", answers, 1, "a.db", far, 1)))
    push.close(linger=1000)
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{replica.port + 2}")
    push.send_multipart(
        pack(m.RecordsChunk(999, "a.db", 1 << 40, [(1, 1)], 1, [1 << 31], True), b"short")
    )
    push.send_multipart(pack(m.RepairPages(999, "a.db", 4096, [1, 2, 3]), os.urandom(100)))
    push.close(linger=1000)
    alive(shared, before)


def test_warnings_when_a_stranger_floods_then_they_are_few(
    shared: Cluster, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Thousands of strange messages are a line a second at most, and counted."""
    primary = shared.primary
    before = actors(shared)
    earlier = len(primary.logged(STRANGE))
    push = context.socket(zmq.PUSH)
    push.setsockopt(zmq.SNDHWM, 100_000)
    push.connect(f"tcp://127.0.0.1:{primary.port + 1}")
    for _ in range(20_000):
        push.send(b"flood")

    def counted() -> int:
        push.send(b"again")
        return sum(line["count"] for line in primary.logged(STRANGE)[earlier:])

    eventually(lambda: counted() >= 20_000, what="all of them are counted")
    push.close(linger=5000)
    alive(shared, before)
    assert len(primary.logged(STRANGE)[earlier:]) <= 10


def test_frame_when_over_the_limit_then_the_sender_is_cut_off(
    shared: Cluster, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """It is refused by its length, before its bytes are kept."""
    before = actors(shared)
    rss = {name: pid_rss(pid) for name, pid in before.items()}
    for _, port in ports(shared)[1:]:
        push = context.socket(zmq.PUSH)
        push.connect(f"tcp://127.0.0.1:{port}")
        push.send(bytes(MAX_FRAME_BYTES + 1))
        push.close(linger=1000)
    alive(shared, before)
    for name, pid in before.items():
        assert pid_rss(pid) < rss[name] + MAX_FRAME_BYTES, name


def pid_rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_subscriber_when_it_never_reads_then_nobody_waits_for_it(
    shared: Cluster, context: zmq.Context[zmq.Socket[bytes]], write_back: bool
) -> None:
    """A stranger may listen to the stream; if it does not read, it loses messages."""
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.RCVHWM, 1)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    subscriber.connect(f"tcp://127.0.0.1:{shared.primary.port}")
    assert subscriber.poll(5000)
    frames = subscriber.recv_multipart()
    assert isinstance(unpack(frames[1:])[0], m.StreamHeartbeat | m.LiveRecords)
    pid = shared.primary.actor("stream_publisher").pid
    before = pid_rss(pid)
    with shared.primary.connect("a.db") as app:
        # where writes are cached, OFF makes few and large transactions of these
        app.sql(f"PRAGMA synchronous={'FULL' if write_back else 'OFF'}")
        app.ask("repeat", "INSERT INTO t VALUES(hex(randomblob(8000)))", 3000)
        shared.agree("a.db", timeout_s=60)
    assert pid_rss(pid) < before + 40 * 1024 * 1024
    subscriber.close(linger=0)
