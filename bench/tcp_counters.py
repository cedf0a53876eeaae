"""What the kernel has counted on TCP connections of this machine: bytes and segments, both ways.

Asks the kernel once (sock_diag, as `ss -i` does); needs no privileges, sends nothing on a network.
Counted are bytes of the stream, so neither headers nor anything of a lower layer.

Source: man 7 sock_diag; struct tcp_info in linux/tcp.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from litemq.errors import LiteMQError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_INET_DIAG_INFO = 2
_ESTABLISHED = 1 << 1
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI48x")
_PORTS = struct.Struct(">HH")
_ATTRIBUTE = struct.Struct("=HH")
#: of the answer, before its attributes
_ANSWER_BYTES = 72
_PORTS_AT = 4
#: tcpi_bytes_acked, tcpi_bytes_received, tcpi_segs_out, tcpi_segs_in
_COUNTS, _COUNTS_AT = struct.Struct("=QQII"), 120
_DATAGRAM_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of all connections to one port, as its server sees them."""

    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_segments: int = 0
    received_segments: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(mine + its for mine, its in zip(self._all(), other._all(), strict=True)))

    def __sub__(self, other: Traffic) -> Traffic:
        """What came to it since `other`; the connections are those of now."""
        first, *rest = self._all()
        gone = other._all()[1:]
        return Traffic(first, *(mine - its for mine, its in zip(rest, gone, strict=True)))

    def _all(self) -> tuple[int, ...]:
        return (
            self.connections,
            self.sent_bytes,
            self.received_bytes,
            self.sent_segments,
            self.received_segments,
        )


def traffic(ports: Iterable[int]) -> dict[int, Traffic]:
    """Of the connections to each of these local ports. Raises LiteMQError."""
    found = {port: Traffic() for port in ports}
    for port, counted in _connections():
        if port in found:
            found[port] += counted
    return found


def _connections() -> Iterator[tuple[int, Traffic]]:
    """Local port and counts of every established connection over IPv4."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            question = _QUESTION.pack(
                socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ESTABLISHED
            )
            size = _HEADER.size + len(question)
            kernel.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + question)
            while True:
                data = kernel.recv(_DATAGRAM_BYTES)
                offset = 0
                while offset < len(data):
                    size, kind, *_ = _HEADER.unpack_from(data, offset)
                    if kind == _DONE:
                        return
                    if kind == _ERROR:
                        raise LiteMQError("the kernel does not tell about TCP connections")
                    yield _counted(data[offset + _HEADER.size : offset + size])
                    offset += (size + 3) & ~3
    except OSError as error:
        raise LiteMQError(f"the kernel can't be asked about TCP connections: {error}") from error


def _counted(answer: bytes) -> tuple[int, Traffic]:
    port, _ = _PORTS.unpack_from(answer, _PORTS_AT)
    offset = _ANSWER_BYTES
    while offset < len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, offset)
        if kind == _INET_DIAG_INFO and size >= _ATTRIBUTE.size + _COUNTS_AT + _COUNTS.size:
            counts = _COUNTS.unpack_from(answer, offset + _ATTRIBUTE.size + _COUNTS_AT)
            return port, Traffic(1, *counts)
        offset += (size + 3) & ~3
    return port, Traffic(1)
