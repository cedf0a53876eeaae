"""A proxy before an HTTP server that loses answers: done, and nobody is told."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class LossyProxy:
    """Passes requests on. `lose` names those ("PUT /v1/txn") whose answers are lost.

    With `late`, those requests reach the server only when `deliver` is called, and are answered to
    nobody; what they came to is in `lost`.
    """

    def __init__(self, upstream: str) -> None:
        self.lose = ""
        self.late = False
        self.lost: list[int] = []
        self._deliver = threading.Event()
        proxy, target = self, urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                lost = bool(proxy.lose) and proxy.lose in f"{self.command} {self.path}"
                if lost and proxy.late:
                    proxy._deliver.wait(30)
                connection = http.client.HTTPConnection(target, timeout=30)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                if lost:
                    proxy.lost.append(answer.status)
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_DELETE = _pass_on  # noqa: N815 - the names are http.server's

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def deliver(self) -> None:
        self._deliver.set()

    def close(self) -> None:
        self._deliver.set()
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()
