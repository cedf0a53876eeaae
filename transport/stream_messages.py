"""Between nodes: the stream that all replicas hear, what one asks for, and what it gets.

Records and pages travel beside these messages, as raw frames.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from litemq.transport.wire_values import (
    MAX_CHECKSUMS,
    U64,
    AnswerAddress,
    Count,
    Head,
    Hex64,
    Lineage,
    Message,
    Name,
    WirePosition,
)


class StreamHeartbeat(Message, frozen=True):
    """Every database's head, several times a second: a lost message is noticed at once."""

    node: Name
    epoch: U64
    sent_ms: U64
    heads: list[Head]
    final: bool
    #: somebody waits for the replicas: they are to tell at once what they have
    drain: bool = False
    #: of a relay: who is above it, the primary first; empty from the primary itself
    above: Lineage = msgspec.field(default_factory=list)
    #: of a relay: it does not hear the primary, neither itself nor through those above it
    orphan: bool = False
    #: of a relay: not every database has been compared with the primary's in this epoch; those that
    #: have not are left out
    settling: bool = False


class LiveRecords(Message, frozen=True):
    """Records as they were logged (payload: back to back; no payload: fetch them)."""

    node: Name
    epoch: U64
    head: Head
    first_txid: U64
    lengths: list[Count]


class ReplicaAlive(Message, frozen=True):
    """I am here, answers reach me there, and this is what my readers see."""

    node: Name
    answers: AnswerAddress
    leaving: bool
    applied: list[Head]


class RequestRecords(Message, frozen=True):
    """Send me the records after this position, as far as the credit goes."""

    node: Name
    answers: AnswerAddress
    transfer: U64
    database: Name
    after: WirePosition
    credit: Count


class RequestRepair(Message, frozen=True):
    """Send me every page whose checksum differs (payload.

    My page checksums from `first_page` on).
    """

    node: Name
    answers: AnswerAddress
    transfer: U64
    database: Name
    page_size: Count
    pages: Count
    first_page: Count
    final: bool
    credit: Count


class AskChecksums(Message, frozen=True):
    """What is the database's checksum after each of these transactions?

    To find where two histories part, before a repair.
    """

    node: Name
    answers: AnswerAddress
    transfer: U64
    database: Name
    txids: Annotated[list[U64], msgspec.Meta(max_length=MAX_CHECKSUMS)]


class Checksums(Message, frozen=True):
    """Those that are known, of TXIDs that were asked for; known are `first` to `head`."""

    transfer: U64
    database: Name
    first: U64
    head: U64
    found: Annotated[list[tuple[U64, Hex64]], msgspec.Meta(max_length=MAX_CHECKSUMS)]


class EpochSeen(Message, frozen=True):
    """A replica has seen this epoch of a history that goes on from the primary's: it was set back.

    The primary's next epoch has to be a higher one.
    """

    node: Name
    epoch: U64


class GrantCredit(Message, frozen=True):
    """I have taken in that many bytes of the transfer."""

    node: Name
    transfer: U64
    credit: Count


class CancelTransfer(Message, frozen=True):
    """I no longer want the transfer."""

    node: Name
    transfer: U64


class RecordsChunk(Message, frozen=True):
    """Records of a transfer (payload: back to back)."""

    transfer: U64
    database: Name
    epoch: U64
    epochs: list[tuple[U64, U64]]
    first_txid: U64
    lengths: list[Count]
    last: bool


class RepairNeeded(Message, frozen=True):
    """The log no longer reaches back to that position, or the histories differ.

    Ask for a repair. `parted`: checksums show that the replica's history is another one, so what it
    holds is to be kept aside first; `reason` is for people to read, and decides nothing.
    """

    transfer: U64
    database: Name
    reason: str
    parted: bool


class RepairPages(Message, frozen=True):
    """Pages that differ (payload: the pages back to back, one LZ4 block)."""

    transfer: U64
    database: Name
    page_size: Count
    numbers: list[Count]


class RepairDone(Message, frozen=True):
    """All pages and all redo records have been sent; applied together they are this state."""

    transfer: U64
    database: Name
    head: Head
    epochs: list[tuple[U64, U64]]


class TransferRefused(Message, frozen=True):
    """The transfer ends here, for this reason; ask again later."""

    transfer: U64
    database: Name
    reason: str
