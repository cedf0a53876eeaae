"""Between the FUSE capture actor and the others of its node: what was written, and what may be."""

from __future__ import annotations

from litemq.transport.wire_values import U64, Count, Message, Name


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
    #: databases that somebody may write; told only where writes are cached
    written: list[Name]
    #: databases that nobody may open: see `WithholdDatabases`
    withheld: list[Name]


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


class DatabaseOpened(Message, frozen=True):
    """Somebody may write this database from now on. Told only where the kernel caches writes."""

    database: Name


class DatabaseClosed(Message, frozen=True):
    """Nobody may write it any more, and nothing of it is in the kernel's cache alone."""

    database: Name


class SealDatabases(Message, frozen=True):
    """Have the kernel write all that it holds, and let nobody commit to a WAL any more.

    The node stops. Told only where the kernel caches writes.
    """


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


class ProveWrites(Message, frozen=True):
    """A database in WAL mode was left alone: look for commits that no index has published, and
    whether the log has these pages, which checkpoints seem to have written.
    """

    sequence: U64
    database: Name
    everything: bool
    numbers: list[Count]


class DatabaseRemoved(Message, frozen=True):
    """A database file was unlinked."""

    database: Name


class CaptureEcho(Message, frozen=True):
    """Answer to `EchoCapture`: everything captured before it stands before this message.

    `being_written`: somebody has the database that was named open for writing, or is refused that.
    """

    token: U64
    being_written: bool = False


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
    """Let the held call go on; WAL bytes below `captured_end` are in the log.

    Unless `proven`, frames may have been lost unseen before (only where writes are cached).
    """

    gate: U64
    captured_end: U64
    proven: bool = True


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


class WritesProven(Message, frozen=True):
    """The pages of `ProveWrites` of this number are in the log, or are being compared."""

    sequence: U64


class LogStalled(Message, frozen=True):
    """The log can't (errno > 0) or can again (0) be appended to.

    Refuse writes with that errno meanwhile.
    """

    errno: Count


class WithholdDatabases(Message, frozen=True):
    """These databases, and no others, may be behind their logs: let nobody open them.

    Told only where the kernel caches writes.
    """

    databases: list[Name]


class AdmitWriter(Message, frozen=True):
    """This process alone may write on a replica.

    `compared` names the mount, if it has found all files in it to be what their logs say, or 0.
    """

    pid: Count
    compared: U64 = 0


class WriterAdmitted(Message, frozen=True):
    """Answer to `AdmitWriter`: the mount of that incarnation is there and knows the process."""

    pid: Count
    incarnation: U64


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


class RoleSet(Message, frozen=True):
    """Answer to `SetRole`: from here on the mount is on that side."""

    primary: bool
    epoch: U64


class AcceptCommits(Message, frozen=True):
    """Take writes of this epoch until then (ns of the boot clock; 0: no longer)."""

    epoch: U64
    until_ns: U64


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
