"""What the mount has handed over to the log writer, and the calls that it holds until that is done.

Owns the transactions, reports and gates that the log writer has not answered yet. Always true: a
transaction stays here until the log writer has acknowledged it, a gate until it is opened or
refused; both are sent again to a new log writer, in their order.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from litemq.fs.capture import Commit, DatabaseCapture
from litemq.fs.poll_loop import Event
from litemq.transport import messages as m

#: bytes of unacknowledged transactions above which commits wait for the log writer
OUTSTANDING_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class _Gate:
    """A held call."""

    capture: DatabaseCapture
    generation: int
    message: m.Message
    event: Event[int]
    proven: bool = True


class HandedOver:
    """On its way into the log."""

    def __init__(
        self, send: Callable[..., Any], *, cached: bool, refused: Callable[[], int]
    ) -> None:
        """`send` takes a message and its payload to the log writer; `refused` is the errno of a log
        that can't be appended to, or 0. `cached`: nobody here knows how far a WAL goes.
        """
        self._send = send
        self._cached = cached
        self._refused = refused
        self._sequence = itertools.count(1)
        self._gate_ids = itertools.count(1)
        self._gates: dict[int, _Gate] = {}
        self._outstanding: dict[int, tuple[m.CommitPages, bytes]] = {}
        self._outstanding_bytes = 0
        #: something outstanding has been acknowledged, or given up; a new one for each time, so
        #: whoever waits looks at what it waits for in a loop
        self._acknowledged: Event[None] = Event()
        #: database -> number of the last report of unexplained writes that is not in the log yet
        self._unexplained: dict[str, int] = {}

    # --- transactions

    async def hand_over(self, capture: DatabaseCapture, commit: Commit) -> None:
        """Give the log writer an ended transaction; return at once unless it is large."""
        sequence = next(self._sequence)
        if commit.data is None:
            number = next(self._gate_ids)
            message = m.CommitFile(
                sequence, number, capture.name, commit.everything, commit.numbers
            )
            with contextlib.suppress(OSError):  # the journal is gone: the transaction stands
                await self._hold(number, capture, message)
            return
        handed = m.CommitPages(
            sequence, capture.name, commit.page_size, commit.pages, commit.numbers
        )
        self._outstanding[sequence] = (handed, commit.data)
        self._outstanding_bytes += len(commit.data)
        self._send(handed, commit.data)
        while sequence in self._outstanding and self._outstanding_bytes >= OUTSTANDING_BYTES:
            await self._acknowledged.wait()

    def logged(self, sequence: int) -> None:
        """All up to that one are in the log."""
        for number in [number for number in self._outstanding if number <= sequence]:
            _, data = self._outstanding.pop(number)
            self._outstanding_bytes -= len(data)
        self.look()

    async def all_logged(self, database: str) -> None:
        """Return when none of the database is outstanding. Raises OSError if that may last."""
        while any(message.database == database for message, _ in self._outstanding.values()):
            errno = self._refused()
            if errno:  # whoever waits here holds the directory
                raise OSError(errno, os.strerror(errno))
            await self._acknowledged.wait()

    def look(self) -> None:
        """Whoever waits for room, or for `all_logged`, is to look again."""
        self._acknowledged.set()
        self._acknowledged = Event()

    # --- gates

    async def wal_gate(self, capture: DatabaseCapture) -> bool:
        """See `Gatekeeper.wal_gate`."""
        number = next(self._gate_ids)
        return await self._hold(number, capture, m.WalGate(number, capture.name, capture.wal_end))

    async def _hold(self, number: int, capture: DatabaseCapture, message: m.Message) -> bool:
        gate = self._gates[number] = _Gate(capture, capture.generation, message, Event())
        self._send(message)
        errno = await gate.event.wait()
        if errno:
            raise OSError(errno, os.strerror(errno))
        return gate.proven

    def open_gate(self, number: int, captured_end: int, *, proven: bool) -> None:
        gate = self._gates.pop(number, None)
        if gate is None:
            return
        capture = gate.capture
        if gate.generation == capture.generation and not self._cached:
            capture.captured_end = max(capture.captured_end, captured_end)
        gate.proven = proven
        gate.event.set(0)

    def refuse_gate(self, number: int, errno: int) -> None:
        gate = self._gates.pop(number, None)
        if gate is not None:
            gate.event.set(errno)

    # --- reports of what no journal and no WAL explains

    @property
    def anything_unexplained(self) -> bool:
        return bool(self._unexplained)

    def unexplained_pending(self, database: str) -> bool:
        """Whether such a report is not in the log yet."""
        return database in self._unexplained

    def report(self, database: str, *, everything: bool, numbers: list[int]) -> None:
        """Have the log writer compare; told again to a new one until it says that it has."""
        sequence = self._unexplained[database] = next(self._sequence)
        self._send(m.UnexplainedWrites(sequence, database, everything, numbers))

    def explained(self, database: str, sequence: int) -> None:
        if self._unexplained.get(database) == sequence:
            del self._unexplained[database]

    def forget_reports(self, database: str) -> None:
        """The file that they are of is gone."""
        self._unexplained.pop(database, None)

    # --- another log writer, or none

    def send_again(self) -> None:
        """Everything that the one before may have missed."""
        held = [gate.message for gate in self._gates.values()]
        pending: Iterable[tuple[int, m.Message, bytes]] = sorted(
            [(number, message, data) for number, (message, data) in self._outstanding.items()]
            + [(each.sequence, each, b"") for each in held if isinstance(each, m.CommitFile)],
            key=lambda entry: entry[0],
        )
        for _, message, data in pending:
            self._send(message, *([data] if data else []))
        for each in held:
            if not isinstance(each, m.CommitFile):
                self._send(each)
        for database, sequence in self._unexplained.items():
            self._send(m.UnexplainedWrites(sequence, database, everything=True, numbers=[]))

    def give_up(self, errno: int) -> None:
        """Nobody answers any more: held calls fail with this, the rest is forgotten."""
        for gate in self._gates.values():
            gate.event.set(errno)
        self._gates.clear()
        self._outstanding.clear()
        self._outstanding_bytes = 0
        self.look()
        self._unexplained.clear()
