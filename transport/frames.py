"""Multipart frames: what stands around a message on a socket.

A datagram is `[preamble + message][payload frame]*`; on the stream's PUB socket a topic frame
stands first. The preamble is the four bytes `LMQ` and the protocol version, so that a stranger, an
older or a newer node is told apart before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from litemq.errors import ProtocolError
from litemq.transport.messages import Message, decode, encode

VERSION = 1
PREAMBLE = b"LMQ" + bytes([VERSION])
MAX_FRAMES = 4
#: A frame above this is refused by the socket itself (bytes).
MAX_FRAME_BYTES = 64 * 1024 * 1024
HEARTBEAT_TOPIC = b"\x00"


def pack(message: Message, *payload: bytes) -> list[bytes]:
    """Frames of one datagram."""
    return [PREAMBLE + encode(message), *payload]


def unpack(frames: Sequence[bytes]) -> tuple[Message, Sequence[bytes]]:
    """Message and payload frames of one datagram. Raises ProtocolError for anything else."""
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise ProtocolError(f"a datagram of {len(frames)} frames")
    head = frames[0]
    if head[:3] != PREAMBLE[:3]:
        raise ProtocolError("bytes that are not LiteMQ's")
    if head[:4] != PREAMBLE:
        version = head[3] if len(head) > 3 else "no"
        raise ProtocolError(f"protocol version {version}, this node speaks {VERSION}")
    return decode(head[4:]), frames[1:]


def topic(database: str) -> bytes:
    """The PUB topic of one database; the final NUL keeps `a.db` from matching `a.db2`."""
    return b"d" + database.encode() + b"\x00"
