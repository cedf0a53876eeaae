"""A place in the history of one database, as a value: does this follow mine is one comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass

from litemq.errors import FormatError
from litemq.txlog.ids import Checksum, Epoch, Txid

_TEXT = re.compile(r"([0-9a-f]{16})/([0-9a-f]{16})/([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Position:
    """After transaction `txid`, written in `epoch`; `checksum` covers the whole database."""

    epoch: Epoch
    txid: Txid
    checksum: Checksum

    @property
    def text(self) -> str:
        return f"{self.epoch:016x}/{self.txid:016x}/{self.checksum:016x}"


ZERO = Position(0, 0, 0)  # before the first transaction


def parse(text: str) -> Position:
    """The inverse of `Position.text`; anything else, upper case included, is a FormatError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise FormatError(f"not a position (epoch/txid/checksum in hex): {text[:60]!r}")
    epoch, txid, checksum = (int(group, 16) for group in match.groups())
    return Position(epoch, txid, checksum)
