"""ZeroMQ sockets with LiteMQ's limits set, and nothing else of ZeroMQ's showing.

A `Sender` never blocks: when its queue is full it says so. A `Receiver` never raises for what a
stranger sent: it counts, reports through `on_garbage` at most once a second, and goes on. Every
queue, frame and linger has a limit here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from litemq import thread_room
from litemq.errors import LiteMQError, ProtocolError
from litemq.transport.frames import (
    HEARTBEAT_TOPIC,
    MAX_FRAME_BYTES,
    pack,
    topic,
    unpack,
)
from litemq.transport.messages import Message

LOCAL_HWM = 100_000
#: ZeroMQ's own, started with the first socket
THREADS = 2
LINGER_MS = 500
RECEIVE_BURST = 256
#: of one process: a publisher has one to each replica that has ever asked for something. Each takes
#: two descriptors, of which actors may have as many as the system lets them (nursery)
MAX_SOCKETS = 2048
#: pauses between attempts to connect: within the node, where actors come and go within milliseconds
LOCAL_RECONNECT_MS = (1, 3)
RECONNECT_MS = (20, 500)
GARBAGE_REPORT_S = 1.0
#: over a network each end asks the other so often whether it is there, and connects anew if nothing
#: at all has come for that long: a router that forgets a connection tells nobody
ASK_MS, SILENT_MS = 1_000, 5_000

_context: zmq.Context[zmq.Socket[bytes]] | None = None


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """This process's one ZeroMQ context, made when first needed (never before a fork).

    Raises NoThreadError.
    """
    global _context
    if _context is None:
        thread_room.check(THREADS)  # ZeroMQ would end the process
        _context = zmq.Context(io_threads=1)
        _context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return _context


def close_all() -> None:
    """Close every socket and end the context; what lingers has half a second."""
    global _context
    if _context is not None:
        _context.destroy(linger=LINGER_MS)
        _context = None


def _socket(kind: int, *, hwm: int) -> zmq.Socket[bytes]:
    try:
        socket = context().socket(kind)
    except zmq.ZMQError as error:
        raise LiteMQError(f"no socket is left: {error.strerror}") from error
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    _reconnect(socket, RECONNECT_MS)
    return socket


def _notice_silence(socket: zmq.Socket[bytes], address: str) -> None:
    """On connections over a network; before they are made."""
    if address.startswith("tcp:"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, ASK_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)
        # what the other end's kernel has not acknowledged for so long is lost with its connection
        socket.setsockopt(zmq.TCP_MAXRT, SILENT_MS)


def _reconnect(socket: zmq.Socket[bytes], pauses_ms: tuple[int, int]) -> None:
    socket.setsockopt(zmq.RECONNECT_IVL, pauses_ms[0])
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, pauses_ms[1])


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    _notice_silence(socket, address)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise LiteMQError(f"can't listen on {address}: {error.strerror}") from error


class Sender:
    """A PUSH socket to one receiver."""

    def __init__(self, address: str, *, hwm: int = LOCAL_HWM) -> None:
        """Raises LiteMQError for an address that can't be one."""
        self._socket = _socket(zmq.PUSH, hwm=hwm)
        if address.startswith("ipc:"):
            _reconnect(self._socket, LOCAL_RECONNECT_MS)
        _notice_silence(self._socket, address)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            raise LiteMQError(f"can't connect to {address}: {error.strerror}") from error
        self.address = address

    def send(self, message: Message, *payload: bytes) -> bool:
        """Queue the message; False when the queue is full (nothing was queued)."""
        try:
            self._socket.send_multipart(pack(message, *payload), zmq.DONTWAIT, copy=True)
        except zmq.Again:
            return False
        return True

    def close(self, linger_ms: int = LINGER_MS) -> None:
        self._socket.close(linger=linger_ms)


class Publisher:
    """A PUB socket.

    A subscriber that does not read loses messages, never memory beyond the high-water mark.
    """

    def __init__(self, address: str, *, hwm: int) -> None:
        self._socket = _socket(zmq.PUB, hwm=hwm)
        _bind(self._socket, address)

    def publish(self, database: str | None, message: Message, *payload: bytes) -> None:
        """Send to everyone subscribed to the database; None: to everyone (a heartbeat)."""
        name = HEARTBEAT_TOPIC if database is None else topic(database)
        self._socket.send_multipart([name, *pack(message, *payload)], zmq.DONTWAIT, copy=True)

    def close(self) -> None:
        self._socket.close(linger=LINGER_MS)


class Receiver:
    """A PULL or SUB socket whose datagrams come out as (message, payload)."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        topics: bool,
        on_garbage: Callable[[str, int], None] | None,
        file: Path | None = None,
    ) -> None:
        """`file` is what others find the socket by, if it is one of this machine."""
        self._socket = socket
        self._skip = 1 if topics else 0
        self.file = file
        self._on_garbage = on_garbage
        self._garbage = 0
        self._reported_s = float("-inf")
        #: the host that the last datagram came from; "" if that was not asked for, or is unknown
        self.peer = ""
        self._note_peers = False
        self.fd = int(socket.getsockopt(zmq.FD))

    @classmethod
    def bind(
        cls,
        address: str,
        *,
        hwm: int = LOCAL_HWM,
        on_garbage: Callable[[str, int], None] | None = None,
        note_peers: bool = False,
    ) -> Receiver:
        """A PULL socket that listens at `address`. `note_peers`: see `peer`."""
        socket = _socket(zmq.PULL, hwm=hwm)
        _bind(socket, address)
        file = Path(address.removeprefix("ipc://")) if address.startswith("ipc://") else None
        receiver = cls(socket, topics=False, on_garbage=on_garbage, file=file)
        receiver._note_peers = note_peers
        return receiver

    def stay_reachable(self) -> bool:
        """Listen anew if the socket's file was deleted (a cleaner of temporary folders); whether it
        was. Who is connected stays so. Raises LiteMQError, OSError.
        """
        file = self.file
        if file is None or os.path.lexists(file):
            return False
        with contextlib.suppress(FileExistsError):
            file.parent.mkdir(mode=0o700, parents=True)
        if file.parent.lstat().st_uid != os.geteuid():
            raise LiteMQError(f"{file.parent} belongs to somebody else now")
        # The old listener stays: its end, at any time, would delete the new one's file.
        _bind(self._socket, f"ipc://{file}")
        return True

    @classmethod
    def subscribe(
        cls,
        address: str,
        *,
        hwm: int,
        on_garbage: Callable[[str, int], None] | None = None,
    ) -> Receiver:
        """A SUB socket that takes everything a publisher sends."""
        socket = _socket(zmq.SUB, hwm=hwm)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        _notice_silence(socket, address)
        socket.connect(address)
        return cls(socket, topics=True, on_garbage=on_garbage)

    def drain(self, limit: int = RECEIVE_BURST) -> Iterator[tuple[Message, list[bytes]]]:
        """Datagrams that are there now, `limit` at most.

        The descriptor `fd` is edge-triggered: after it fired, drain until `more` is false.
        """
        for _ in range(limit):
            try:
                frames = self._receive()
            except zmq.Again:
                return
            try:
                message, payload = unpack(frames[self._skip :])
            except ProtocolError as error:
                self._note_garbage(str(error))
                continue
            yield message, list(payload)

    def _receive(self) -> list[bytes]:
        if not self._note_peers:
            return self._socket.recv_multipart(zmq.DONTWAIT, copy=True)
        frames = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
        try:
            self.peer = str(frames[0].get("Peer-Address") or "")
        except zmq.ZMQError:  # the connection is gone already
            self.peer = ""
        return [frame.bytes for frame in frames]

    @property
    def more(self) -> bool:
        """Whether a datagram is waiting."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def wait(self, timeout_ms: int) -> bool:
        """Block until a datagram is there or the time has passed."""
        return bool(self._socket.poll(timeout_ms, zmq.POLLIN))

    def _note_garbage(self, reason: str) -> None:
        self._garbage += 1
        now = time.monotonic()
        if self._on_garbage is not None and now - self._reported_s >= GARBAGE_REPORT_S:
            self._on_garbage(reason, self._garbage)
            self._reported_s, self._garbage = now, 0

    def close(self) -> None:
        self._socket.close(linger=0)
