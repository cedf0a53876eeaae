"""HTTP requests that end in time: one deadline for the whole exchange, whatever the server does.

Knows nothing of Consul. Owns one connection at a time, kept alive between requests. A time-out per
system call, which is what HTTP libraries offer, lets a server that sends a byte now and then hold
a call for ever; here every wait is given only what is left (of a TLS handshake, every step is).
Not thread-safe, but for `abort`.
Proxies, redirects and .netrc are none of its business.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Mapping
from email.message import Message
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from litemq.election import clock

MAX_BODY_BYTES: Final = 16 << 20


class Response(NamedTuple):
    status: int
    headers: Message
    body: bytes


class DeadlineClient:
    """Requests to one server, `http://HOST:PORT` or `https://HOST:PORT`.

    Whatever goes wrong is an OSError (TimeoutError when the time is up) or an HTTPException.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False
        self._busy = False

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str],
        deadline_s: float,
    ) -> Response:
        """One exchange, over by `deadline_s` (boot clock)."""
        self._busy = True
        try:
            connection = self._connected(deadline_s)
            connection.sock.settimeout(_left_s(deadline_s))
            connection.request(method, target, body=body, headers=dict(headers))
            response = _read_head(connection, deadline_s)
            content = response.read(MAX_BODY_BYTES + 1)
            if len(content) > MAX_BODY_BYTES:
                raise http.client.HTTPException("the answer is too long")
            if response.will_close:
                self.close()
            return Response(response.status, response.headers, content)
        except BaseException:
            # What is left of the answer must not be taken for that of the next request.
            self.close()
            raise
        finally:
            self._busy = False

    def close(self) -> None:
        """Forget the connection; the next request makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """End the request that another thread waits for, and refuse all that follow."""
        self._aborted = True
        connection = self._connection
        if connection is None:
            return
        if self._busy:
            # The other thread closes it, once it has been woken by the end of the connection.
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        else:
            self.close()

    def _connected(self, deadline_s: float) -> http.client.HTTPConnection:
        if self._connection is not None and not _still_open(self._connection.sock):
            self.close()
        if self._connection is None:
            connection = http.client.HTTPConnection(self._host, self._port)
            # Else a closed connection would quietly be made again, with no deadline.
            connection.auto_open = 0
            connection.sock = self._connect(deadline_s)
            self._connection = connection
        if self._aborted:
            raise ConnectionAbortedError("closed")
        return self._connection

    def _connect(self, deadline_s: float) -> socket.socket:
        refused: OSError | None = None
        for family, address in _lookup(self._host, self._port, deadline_s):
            connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connected.settimeout(_left_s(deadline_s))
                connected.connect(address)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if not self._secure:
                    return connected
                context = ssl.create_default_context()
                connected.settimeout(_left_s(deadline_s))
                return context.wrap_socket(connected, server_hostname=self._host)
            except OSError as error:
                connected.close()
                refused = error
        raise refused or OSError(f"no address for {self._host}")


class _Deadline(io.RawIOBase):
    """A socket's bytes; every read waits only for what is left until the deadline."""

    def __init__(self, connected: socket.socket, deadline_s: float) -> None:
        self._socket = connected
        # It keeps the socket open as long as the answer is read, as http.client expects.
        self._raw = connected.makefile("rb", buffering=0)
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_left_s(self._deadline_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _read_head(
    connection: http.client.HTTPConnection, deadline_s: float
) -> http.client.HTTPResponse:
    class WithDeadline(http.client.HTTPResponse):
        def __init__(self, connected: socket.socket, *args: Any, **named: Any) -> None:
            super().__init__(connected, *args, **named)
            self.fp.close()
            self.fp = io.BufferedReader(_Deadline(connected, deadline_s))

    connection.response_class = WithDeadline
    return connection.getresponse()


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - clock.now_s()
    if left_s <= 0:
        raise TimeoutError("no answer in time")
    return left_s


def _still_open(connected: socket.socket | None) -> bool:
    """Nothing can be read between two requests but the end of the connection."""
    if connected is None:
        return False
    waiting = select.poll()
    waiting.register(connected, select.POLLIN)
    return not waiting.poll(0)


def _lookup(host: str, port: int, deadline_s: float) -> list[tuple[int, Any]]:
    """Where the host is. The C library's look-up has its own time-outs: it may be left behind."""
    with contextlib.suppress(ValueError):
        family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
        return [(family, (host, port))]
    found: list[tuple[int, Any]] = []
    failed: list[OSError] = []

    def look_up() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
                found.append((family, address))
        except OSError as error:
            failed.append(error)

    helper = threading.Thread(target=look_up, daemon=True)
    try:
        helper.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"{host}: no thread is left for its look-up") from error
    helper.join(_left_s(deadline_s))
    if helper.is_alive():
        raise TimeoutError(f"{host}: no answer from the name service in time")
    if failed:
        raise failed[0]
    return found
