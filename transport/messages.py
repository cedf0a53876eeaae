"""Every message that crosses a process border, as strict typed values.

A message is a frozen msgspec struct, encoded as MessagePack with its type name in it; bulk bytes
(LTX records, pages, checksums) travel beside it as raw frames and never inside it. Commands are
imperatives to one receiver, events are past facts. Decoding refuses unknown types, unknown fields
and wrong types: what comes from a socket is data and nothing else.

Who sends what to whom, and over which socket, stands in docs/protocol.md; a test holds that table
against this file.
"""

from __future__ import annotations

from typing import Annotated, Union

import msgspec
from msgspec import Meta

from litemq.errors import ProtocolError
from litemq.txlog.position import Position

Name = Annotated[str, Meta(min_length=1, max_length=255)]
U64 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
#: A checksum as signed 64 bits would not fit MessagePack's range checks; it travels as 16 hex
#: digits.
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Count = Annotated[int, Meta(ge=0, le=1 << 32)]
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


# --- fuse capture -> log writer


class CaptureStarted(Message, frozen=True):
    """The FUSE capture has (re)started: start over with me. Repeated until it may mount."""

    incarnation: U64


class ResyncCapture(Message, frozen=True):
    """Answer to `LogWriterStarted`: forget what came before; all that is outstanding follows."""

    token: str
    incarnation: U64
    mounted: bool
    #: mounted, but what is in the files was applied: nobody has written in this epoch yet
    taken_over: bool
    unclean: bool
    wals: list[Name]
    shms: list[Name]


class CommitPages(Message, frozen=True):
    """A rollback-journal transaction ended: the pages it wrote (payload.

    The pages, back to back).
    """

    sequence: U64
    database: Name
    page_size: Count
    pages: Count
    numbers: list[Count]


class CommitFile(Message, frozen=True):
    """A rollback-journal transaction too large for a message ended: read its pages from the file.

    The caller waits.
    """

    sequence: U64
    gate: U64
    database: Name
    everything: bool
    numbers: list[Count]


class WalGate(Message, frozen=True):
    """A call that could destroy WAL frames waits until everything published has been captured.

    `wal_end`: bytes that were written to this generation of the WAL.
    """

    gate: U64
    database: Name
    wal_end: U64


class WalOpened(Message, frozen=True):
    """A `-wal` file exists (again) under this database's name."""

    database: Name


class WalRemoved(Message, frozen=True):
    """The `-wal` file is gone; everything in it had been captured."""

    database: Name


class ShmOpened(Message, frozen=True):
    """A `-shm` file exists (again) under this database's name."""

    database: Name


class ShmRemoved(Message, frozen=True):
    """The `-shm` file is gone."""

    database: Name


class UnexplainedWrites(Message, frozen=True):
    """Bytes of a database file changed without a journal or WAL: compare and emit what changed."""

    sequence: U64
    database: Name
    everything: bool
    numbers: list[Count]


class DatabaseRemoved(Message, frozen=True):
    """A database file was unlinked."""

    database: Name


class CaptureEcho(Message, frozen=True):
    """Answer to `EchoCapture`: everything captured before it stands before this message."""

    token: U64


# --- log writer, replica applier, supervisor -> fuse capture


class LogWriterStarted(Message, frozen=True):
    """The log writer has (re)started and asks for everything outstanding, until it is answered."""

    token: str


class CaptureReady(Message, frozen=True):
    """The log writer has recovered every database: the mount may open."""

    token: str


class EchoCapture(Message, frozen=True):
    """Answer me behind everything you have sent so far.

    With a database: and behind a report of its unexplained writes up to this moment.
    """

    token: U64
    database: str = ""


class OpenGate(Message, frozen=True):
    """Let the held call go on; WAL bytes below `captured_end` are in the log."""

    gate: U64
    captured_end: U64


class RefuseGate(Message, frozen=True):
    """Fail the held call with this errno."""

    gate: U64
    errno: Count


class PagesLogged(Message, frozen=True):
    """Handed-over commits up to this sequence number are in the log."""

    sequence: U64


class WritesExplained(Message, frozen=True):
    """What `UnexplainedWrites` of this number told of is in the log."""

    sequence: U64
    database: Name


class LogStalled(Message, frozen=True):
    """The log can't (errno > 0) or can again (0) be appended to.

    Refuse writes with that errno meanwhile.
    """

    errno: Count


class AdmitWriter(Message, frozen=True):
    """This process alone may write on a replica."""

    pid: Count


class WriterAdmitted(Message, frozen=True):
    """Answer to `AdmitWriter`: the mount is there and knows the process."""

    pid: Count


class ShowPrimary(Message, frozen=True):
    """What `.primary` shows."""

    text: str


class CloseWrites(Message, frozen=True):
    """Refuse every new write from now on: the node is draining."""

    reply_to: str


class WritesClosed(Message, frozen=True):
    """Answer to `CloseWrites`."""


class SetRole(Message, frozen=True):
    """Be the mount of a primary or of a replica. A primary takes writes when its log writer can."""

    primary: bool
    epoch: U64
    text: str


class AcceptCommits(Message, frozen=True):
    """Take writes of this epoch until then (ns of the monotonic clock; 0: no longer)."""

    epoch: U64
    until_ns: U64


# --- to the owner of the log (log writer or replica applier)


class Barrier(Message, frozen=True):
    """Capture all that is committed, then tell the heads (of one database, or all if empty)."""

    request: U64
    reply_to: str
    database: str = ""


class HoldWrites(Message, frozen=True):
    """Let writers wait, until `AcceptCommits` or `FenceWrites`, if the epoch is the same."""

    epoch: U64


class FenceWrites(Message, frozen=True):
    """Refuse every write from now on, until `AcceptCommits`."""

    reply_to: str
    attempt: U64


class WritesFenced(Message, frozen=True):
    """Answer to `FenceWrites`, with its number."""

    attempt: U64


class CompleteLog(Message, frozen=True):
    """Hear the primary no longer, and apply all that is in the log: this node takes over."""

    reply_to: str
    epoch: U64


class LogCompleted(Message, frozen=True):
    """Answer to `CompleteLog`; `reason` is empty if every file shows all of its log."""

    reason: str
    epoch: U64


class Follow(Message, frozen=True):
    """Follow the primary at this address (its `listen`); none while it is empty."""

    node: str
    address: str
    epoch: U64


class BarrierReached(Message, frozen=True):
    """Answer to `Barrier`. A replica adds the primary's heads, as far as it has heard of them."""

    request: U64
    heads: list[Head]
    primary: list[Head] = []


# --- owner of the log -> stream publisher


class RecordsLogged(Message, frozen=True):
    """Records were appended (payload: the records back to back; none when only announced)."""

    head: Head
    first_txid: U64
    lengths: list[Count]


class DatabaseHeads(Message, frozen=True):
    """All heads, when an owner of the log or a publisher has started."""

    heads: list[Head]


class PublisherStarted(Message, frozen=True):
    """The publisher asks for all heads."""


class DrainReplicas(Message, frozen=True):
    """Tell when `node` (every connected replica if empty) shows these heads, or time is up."""

    reply_to: str
    deadline_ms: Count
    heads: list[Head]
    node: str = ""
    request: U64 = 0


class ReplicasDrained(Message, frozen=True):
    """Answer to `DrainReplicas`."""

    complete: bool
    request: U64 = 0


# --- stream: primary -> replicas over PUB


class StreamHeartbeat(Message, frozen=True):
    """Every database's head, several times a second: a lost message is noticed at once."""

    node: Name
    epoch: U64
    sent_ms: U64
    heads: list[Head]
    final: bool


class LiveRecords(Message, frozen=True):
    """Records as they were logged (payload: back to back; no payload: fetch them)."""

    node: Name
    epoch: U64
    head: Head
    first_txid: U64
    lengths: list[Count]


# --- replica -> primary, PUSH to its request socket


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


class GrantCredit(Message, frozen=True):
    """I have taken in that many bytes of the transfer."""

    node: Name
    transfer: U64
    credit: Count


class CancelTransfer(Message, frozen=True):
    """I no longer want the transfer."""

    node: Name
    transfer: U64


# --- primary -> replica, PUSH to its answer socket


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

    Ask for a repair.
    """

    transfer: U64
    database: Name
    reason: str


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


# --- control: actors and commands -> supervisor


class DatabaseStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One database as its node has it."""

    name: Name
    txid: U64
    checksum: Hex64
    epoch: U64
    page_size: Count
    pages: Count
    lag_ms: U64
    state: str = "ok"


class ReplicaDatabase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far one replica is with one database."""

    name: Name
    txid: U64
    lag_txids: U64


class ReplicaStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica as its primary sees it."""

    node: Name
    connected: bool
    databases: list[ReplicaDatabase]


class ActorAlive(Message, frozen=True):
    """An actor's heartbeat to its supervisor, with what `status` shows of it."""

    actor: Name
    pid: Count
    ready: bool
    epoch: U64 = 0
    primary: str | None = None
    databases: list[DatabaseStatus] | None = None
    replicas: list[ReplicaStatus] | None = None


class ChangeRole(Message, frozen=True):
    """Be a primary of this epoch, or a replica of the primary named (of none while it is empty)."""

    primary: bool
    epoch: U64
    node: str
    address: str
    why: str


class RoleChanged(Message, frozen=True):
    """Answer to `ChangeRole`; `reason` is empty, or says why the role has not changed."""

    primary: bool
    epoch: U64
    reason: str


class StreamSeen(Message, frozen=True):
    """The replica hears a primary of this epoch; `ended`: not any more."""

    epoch: U64
    ended: bool


class HandOver(Message, frozen=True):
    """Have another node be the primary: the one named, or the one that is furthest."""

    request: U64
    reply_to: str
    target: str


class TakeOver(Message, frozen=True):
    """Have the node that is asked be the primary."""

    request: U64
    reply_to: str


class HandedOver(Message, frozen=True):
    """Answer to both; `refused` is empty, or says why not."""

    request: U64
    refused: str


class AskForHandOver(Message, frozen=True):
    """A candidate wants to be the primary, and asks the one that is."""

    node: Name


class AskMembers(Message, frozen=True):
    """Tell who takes part in the election."""

    request: U64
    reply_to: str


class MemberStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node, as it has announced itself; `alive` is what the lease service says of it."""

    node: str
    address: str
    role: str
    epoch: U64
    since_ms: U64
    why: str
    candidate: bool
    alive: bool
    txids: U64


class Members(Message, frozen=True):
    """Answer to `AskMembers`; `reason` is not empty if the service did not answer."""

    request: U64
    members: list[MemberStatus]
    reason: str


class LeaveElection(Message, frozen=True):
    """The node is to end: hand over, or let go of the lease."""


class ElectionLeft(Message, frozen=True):
    """Answer to `LeaveElection`."""


class AskStatus(Message, frozen=True):
    """The CLI asks for the node's status."""

    request: U64
    reply_to: str


class ActorStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One actor of a node."""

    name: str
    pid: Count
    state: str
    restarts: Count
    rss_bytes: U64


class NodeStatus(Message, frozen=True):
    """Answer to `AskStatus`."""

    request: U64
    node: Name
    role: str
    epoch: U64
    primary: str
    ready: bool
    since_ms: U64
    why: str
    databases: list[DatabaseStatus]
    replicas: list[ReplicaStatus]
    actors: list[ActorStatus]


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
