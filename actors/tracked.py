"""What the log writer keeps of one database: its log, its WAL, and what it still has to compare."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

from litemq.actors.damaged_log import open_log
from litemq.actors.failing import BLOCKED, FAILING, Failing
from litemq.actors.layout import Layout, PositionFile
from litemq.errors import StorageError
from litemq.fs.pages import bookkeeping
from litemq.fs.wal_tail import WalTail
from litemq.transport.messages import DatabaseStatus, Head, WirePosition
from litemq.txlog.position import ZERO
from litemq.txlog.store import DatabaseLog

#: Where the pages of a record came from, kept in its LTX header: salts, offset, size of frames in
#: the WAL; for a rollback journal (0, 0, number of the commit, incarnation of the mount).
Capture = tuple[int, int, int, int]


@dataclass(slots=True)
class Comparison:
    """Pages to compare with the log (None: all), and the report that asked for it."""

    sequence: int
    numbers: list[int] | None
    #: pause before it is tried again; grows while the file stays half written (seconds)
    pause_s: float = 0.0
    #: nobody has reported a change: what differs now has changed while the node was down
    unexpected: bool = False
    #: when the last look began that found the file empty or half there, as it is while a program
    #: overwrites it, and when the first one did (monotonic seconds; never: infinity)
    half_there_s: float = -math.inf
    half_there_since_s: float = math.inf

    def half_there(self, looked_s: float) -> None:
        """A look that began then has found the file so."""
        self.half_there_s = looked_s
        self.half_there_since_s = min(self.half_there_since_s, looked_s)


@dataclass(slots=True)
class Tracked:
    """One database of a primary."""

    name: str
    log: DatabaseLog
    position: PositionFile
    #: the newest state that is in the log on the disk, without what is only prepared
    appended: Head
    wal: WalTail | None = None
    comparing: Comparison | None = None
    #: its file is being opened in the mount for the comparison
    opening: bool = False
    #: how often it was looked at without a lock, and somebody wrote
    looks: int = 0
    #: how often unpublished frames have been looked at in vain
    look_again: int = 0
    look_scheduled: bool = False
    unsynced: bool = True
    #: its file is no SQLite database in the clear; replicas keep what it was before, if anything
    foreign: bool = False
    #: which `-shm` file is the current one: what was opened for an earlier one is not used
    shm_serial: int = 0
    #: the same of `-wal`, where it is opened in the mount
    wal_serial: int = 0
    #: its log was closed, and whoever still has this is late
    gone: bool = False
    #: its file can't be read at present
    failing: Failing = field(default_factory=Failing)
    #: who is stopped and holds a lock on it, in words
    blocked_by: str = ""

    @classmethod
    def open(cls, name: str, layout: Layout, segment_bytes: int) -> Tracked:
        """Open the database's log, making it when there is none."""
        opened = open_log(layout, name, segment_bytes)
        try:
            state = opened.state
            if state.role == "" or not opened.head.txid:
                state.role = "primary"
                opened.save_state()
            if state.role == "primary" and state.applied != ZERO:
                state.applied = ZERO  # handed back by the last end; from now on there may be more
                opened.save_state()
            position = PositionFile(layout.position(name))
            return cls(name, opened, position, _head(name, opened))
        except StorageError:
            opened.close(clean=False)
            raise

    @property
    def resume_point(self) -> Capture | None:
        """Salts, offset and size of the last WAL frames in the log.

        None when the newest transaction came from elsewhere.
        """
        capture = self.last_capture
        return capture if capture is not None and (capture[0] or capture[1]) else None

    @property
    def last_capture(self) -> Capture | None:
        """Where the newest transaction came from, for one that stands for no commit of its own."""
        state = self.log.state
        if state.captured and state.captured_txid == self.log.head.txid:
            salt1, salt2, offset, size = state.captured
            return salt1, salt2, offset, size
        header = self.log.last_header
        if header is None or not header.wal_offset:
            return None
        return header.wal_salt1, header.wal_salt2, header.wal_offset, header.wal_size

    def has_commit(self, incarnation: int, sequence: int) -> bool:
        """Whether that commit of a rollback journal is in the log.

        Then it was sent again, because its acknowledgement was lost.
        """
        return (
            self.last_capture is not None
            and self.last_capture[:2] == (0, 0)
            and self.last_capture[2] >= sequence
            and self.last_capture[3] == incarnation
        )

    @property
    def was_replica(self) -> bool:
        """Whether the file was made from the log, and not yet the log from the file."""
        return self.log.state.role == "replica"

    def is_primary_now(self, wal: Capture | None) -> None:
        """The file shows what the log says; its WAL holds nothing new up to the position `wal`.

        Saved with the next record, or by `save_state` if there is none.
        """
        state = self.log.state
        state.role, state.applied, state.page1_tail = "primary", ZERO, ""
        state.captured = list(wal or ())
        state.captured_txid = self.log.head.txid
        self.log.save_state_with_records()

    def hand_back(self, page1: bytes) -> None:
        """The log holds all of the file: what a replica needs to go on with it."""
        self.log.state.applied = self.log.head
        self.log.state.page1_tail = bookkeeping(page1).hex()

    def mark_unlogged(self, unlogged: bool) -> None:
        """Whether the file may have commits that nothing else tells of. Raises StorageError."""
        if self.log.state.unlogged != unlogged:
            self.log.state.unlogged = unlogged
            self.log.save_state()

    def note_appended(self) -> None:
        """All that was prepared is in the log."""
        self.appended = _head(self.name, self.log)

    def show_position(self) -> None:
        """Bring `NAME-pos` up to date."""
        if self.appended.pages:
            self.position.show(self.appended.position.value)
        else:
            self.position.hide()

    def status(self, state: str) -> DatabaseStatus:
        head = self.appended
        if self.blocked_by and state == "ok":
            state = BLOCKED
        return DatabaseStatus(
            name=self.name,
            txid=head.position.txid,
            checksum=head.position.checksum,
            epoch=head.position.epoch,
            page_size=head.page_size,
            pages=head.pages,
            lag_ms=0,
            state=FAILING if self.failing.reason else state,
            reason=self.failing.reason or self.blocked_by,
            verified_ms=self.log.state.verified_ms,
        )

    def close(self) -> None:
        """Give up on the log as it is open now; what was prepared is forgotten."""
        self.gone, self.comparing = True, None
        with contextlib.suppress(StorageError, OSError):
            self.log.close(clean=False)
        with contextlib.suppress(OSError):
            self.position.close()

    def is_unlogged_since(self, moment_s: float) -> bool:
        """Whether the file may hold what was committed before that moment and is not in the log."""
        return self.comparing is not None and self.comparing.half_there_s < moment_s

    def compare_later(
        self, sequence: int, numbers: list[int] | None, *, unexpected: bool = False
    ) -> None:
        """Add to what is to be compared; the newest report number stands for all before it."""
        if self.comparing is None:
            self.comparing = Comparison(sequence, numbers, unexpected=unexpected)
            return
        known = self.comparing.numbers
        merged = None if known is None or numbers is None else sorted({*known, *numbers})
        self.comparing = Comparison(
            max(sequence, self.comparing.sequence), merged, self.comparing.pause_s
        )


def _head(name: str, log: DatabaseLog) -> Head:
    header = log.last_header
    return Head(
        name,
        WirePosition.of(log.head),
        log.page_size,
        log.n_pages,
        0 if header is None else header.timestamp_ms,
    )
