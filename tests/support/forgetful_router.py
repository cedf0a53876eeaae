"""A TCP relay that can forget its connections, as routers do: nobody is told, nothing arrives."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class ForgetfulRouter:
    """Passes bytes between those who connect to `port` and a listener on the loopback interface."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peers: dict[socket.socket, socket.socket] = {}
        self._forgotten: list[socket.socket] = []
        #: connections that were made
        self.made = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._asked, self._ask = socket.socketpair()
        self._selector.register(self._asked, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """All connections there are; those made from now on are passed."""
        self._ask.send(b"f")

    def close(self) -> None:
        self._ask.send(b"e")
        self._thread.join()

    def _work(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._asked:
                    if self._asked.recv(1) == b"e":
                        self._end()
                        return
                    for each in list(self._peers):
                        self._selector.unregister(each)
                        self._forgotten.append(each)
                    self._peers.clear()
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peers:
                    self._pass(key.fileobj)

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        there = socket.create_connection(("127.0.0.1", self._target))
        self._peers |= {here: there, there: here}
        for each in (here, there):
            self._selector.register(each, selectors.EVENT_READ)
        self.made += 1

    def _pass(self, source: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(1 << 16)
        if data:
            with contextlib.suppress(OSError):
                self._peers[source].sendall(data)
            return
        for each in (source, self._peers.pop(source)):
            self._peers.pop(each, None)
            self._selector.unregister(each)
            each.close()

    def _end(self) -> None:
        for each in (*self._peers, *self._forgotten, self._listener, self._asked, self._ask):
            each.close()
        self._selector.close()
