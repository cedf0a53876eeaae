"""Every message that crosses a process border, as strict typed values.

A message is a frozen msgspec struct, encoded as MessagePack with its type name in it; bulk bytes
(LTX records, pages, checksums) travel beside it as raw frames and never inside it. Commands are
imperatives to one receiver, events are past facts. Decoding refuses unknown types, unknown fields
and wrong types: what comes from a socket is data and nothing else.

Who sends what to whom, and over which socket, stands in docs/protocol.md; a test holds that table
against these files.
"""

from __future__ import annotations

from typing import Union

import msgspec

from litemq.errors import ProtocolError

# One vocabulary, `m.NAME` to those who use it, in a file for each border that is crossed.
from litemq.transport.election_messages import *
from litemq.transport.log_messages import *
from litemq.transport.mount_messages import *
from litemq.transport.node_messages import *
from litemq.transport.stream_messages import *
from litemq.transport.wire_values import *

ALL: tuple[type[Message], ...] = tuple(Message.__subclasses__())

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(type=Union[ALL])  # noqa: UP007 - of a tuple

encode = _encoder.encode


def decode(data: bytes) -> Message:
    """The message in `data`. Raises ProtocolError for anything that is not exactly one."""
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a message of this version: {error}") from error
    return message
