"""Calls end by their deadline whatever a server does: nothing, too little, too much, nonsense."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from litemq.election import clock, deadline_http
from litemq.election.consul_lease import CALL_S, ConsulLease
from litemq.election.deadline_http import DeadlineClient
from litemq.election.lease import Identity, LeaseUnavailableError, Member

WHO = Identity(cluster="c", node="a", address="tcp://127.0.0.1:1")
MEMBER = Member(cluster="c", node="a", instance="", address="", role="", epoch=0, since_ms=0)
Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that does to each connection what a function says; its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()
    threads: list[threading.Thread] = []

    def start(treat: Callable[[socket.socket], None]) -> str:
        def treated(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(65536)
                    treat(connection)
                except OSError:
                    pass

        def accept() -> None:
            while not ending.is_set():
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=treated, args=(connection,)))
                threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    ending.set()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def get(address: str, timeout_s: float = 0.3) -> tuple[Exception | deadline_http.Response, float]:
    """What came of one request, and how long it took."""
    client = DeadlineClient(address)
    began_s = clock.now_s()
    try:
        came: Exception | deadline_http.Response = client.request(
            "GET", "/", headers={}, deadline_s=began_s + timeout_s
        )
    except (OSError, http.client.HTTPException) as error:
        came = error
    took_s = clock.now_s() - began_s
    client.close()
    return came, took_s


def drip(connection: socket.socket, head: bytes, each: bytes) -> None:
    """A few bytes at a time, for ever: no single wait is long."""
    connection.sendall(head)
    while True:
        connection.sendall(each)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("head", "each"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_request_when_the_server_drips_then_it_ends_by_the_deadline(
    serve: Serve, head: bytes, each: bytes
) -> None:
    """The deadline is for the whole exchange, not for each of its reads."""
    came, took_s = get(serve(lambda connection: drip(connection, head, each)))
    assert isinstance(came, TimeoutError | http.client.HTTPException)
    assert took_s < 1.0


def test_request_when_nobody_answers_then_it_ends_by_the_deadline(serve: Serve) -> None:
    """A connection that is taken and then left alone."""
    came, took_s = get(serve(lambda connection: connection.recv(1) and None))
    assert isinstance(came, TimeoutError)
    assert 0.25 < took_s < 1.0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
    ],
)
def test_lease_when_the_server_is_no_consul_then_one_line_says_so(
    serve: Serve, answer: bytes
) -> None:
    """Whatever comes back, it is an error of the election that names the server."""
    address = serve(lambda connection: connection.sendall(answer))
    lease = ConsulLease(WHO, address, "k", 1.0, token="sesame")
    for call in (lambda: lease.acquire(0, {}), lambda: lease.watch(0, 0), lease.members):
        with pytest.raises(LeaseUnavailableError, match="Consul at http://127") as refused:
            call()
        assert "\n" not in str(refused.value)
    lease.close()


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b"[1]", b"null", b"7", b'"x"', b'[{"Key":1}]', b'{"ID":5}', b"sesame", b"\xff"],
)
def test_lease_when_the_answers_are_strange_then_nothing_else_is_raised(
    serve: Serve, body: bytes
) -> None:
    """Answers of the wrong shape are refused like none, and the token is not shown."""
    text = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: %d\r\n\r\n%s"
    address = serve(lambda connection: connection.sendall(text % (len(body), body)))
    lease = ConsulLease(WHO, address, "k", 0.2, token="sesame")
    for call in (
        lambda: lease.acquire(0, {}),
        lambda: lease.announce(MEMBER),
        lambda: lease.watch(0, 0),
        lease.members,
    ):
        said = ""
        try:
            call()
        except LeaseUnavailableError as error:
            said = str(error)
        assert "sesame" not in said
    lease.close()


def test_lease_when_the_server_never_answers_then_every_call_ends(serve: Serve) -> None:
    """A black hole: no call takes longer than it says."""
    lease = ConsulLease(WHO, serve(lambda connection: connection.recv(1) and None), "k", 1.0)
    for call in (
        lambda: lease.acquire(0, {}),
        lambda: lease.announce(MEMBER),
        lambda: lease.watch(0, 60),
    ):
        began_s = clock.now_s()
        with pytest.raises(LeaseUnavailableError, match="does not answer"):
            call()
        assert clock.now_s() - began_s < 2 * CALL_S
    lease.close()


def test_request_when_nobody_listens_then_it_is_refused_at_once() -> None:
    """A closed port is an answer, too."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    came, took_s = get(f"http://127.0.0.1:{port}", 5)
    assert isinstance(came, ConnectionRefusedError)
    assert took_s < 1


def test_request_when_the_answer_is_too_long_then_it_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server can fill this node's memory."""
    monkeypatch.setattr(deadline_http, "MAX_BODY_BYTES", 1000)
    text = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    came, _ = get(serve(lambda connection: connection.sendall(text % (1001, b"x" * 1001))), 5)
    assert isinstance(came, http.client.HTTPException)
    assert "too long" in str(came)


def test_connection_when_the_server_closes_it_then_the_next_request_makes_another() -> None:
    """Connections are kept, and one that has ended meanwhile is no error."""
    accepted = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            accepted.append(self.request)
            super().setup()

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
            self.close_connection = self.path == "/last"

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    client = DeadlineClient(f"http://localhost:{server.server_address[1]}")
    try:
        for path in ("/", "/last", "/", "/"):
            deadline_s = clock.now_s() + 5
            answer = client.request("GET", path, headers={}, deadline_s=deadline_s)
            assert (answer.status, answer.body) == (200, b"ok")
        assert len(accepted) == 2
    finally:
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_name_service_when_it_does_not_answer_then_the_deadline_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking up a name has time-outs of its own; they are not waited for."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answered.wait(10) and [])
    came, took_s = get("http://consul.example:8500")
    answered.set()
    assert isinstance(came, TimeoutError)
    assert took_s < 1
