"""What messages consist of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from litemq.txlog.position import Position

Name = Annotated[str, Meta(min_length=1, max_length=255)]
U64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
#: A checksum as signed 64 bits would not fit MessagePack's range checks; it travels as 16 hex
#: digits.
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Count = Annotated[int, Meta(ge=0, le=1 << 32)]
#: TXIDs of one question for checksums.
MAX_CHECKSUMS = 64
#: A tree of relays has so many levels at most.
MAX_LEVELS = 16
#: Names of the nodes from the primary down to the parent of whoever sends it.
Lineage = Annotated[list[Name], Meta(max_length=MAX_LEVELS)]
#: Where a replica listens for answers: never a local endpoint, whoever asks.
AnswerAddress = Annotated[str, Meta(pattern=r"^tcp://[A-Za-z0-9.-]{1,253}:[0-9]{1,5}\Z")]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """What all messages have in common: nothing but being one."""


class WirePosition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A position on the wire: epoch, TXID, and the checksum as hex."""

    epoch: U64
    txid: U64
    checksum: Hex64

    @classmethod
    def of(cls, position: Position) -> WirePosition:
        return cls(position.epoch, position.txid, f"{position.checksum:016x}")

    @property
    def value(self) -> Position:
        return Position(self.epoch, self.txid, int(self.checksum, 16))


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The head of one database: what it is called, how far its log goes, how large it is."""

    database: Name
    position: WirePosition
    page_size: Count
    pages: Count
    timestamp_ms: U64
