"""Capture of transactions that end with a rollback journal: the mount hands their pages over.

Owns which of them may be acknowledged. Always true: an acknowledgement follows the append, or the
note on the disk that the database has to be compared.
"""

from __future__ import annotations

from collections.abc import Callable

from litemq import log
from litemq.actors.failing import FILE_ERRORS
from litemq.actors.file_capture import FileCapture
from litemq.actors.group_commit import GroupCommit
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.errors import FormatError, NotADatabaseError
from litemq.transport import messages as m
from litemq.transport.sockets import Sender

ACK_S = 0.05


class JournalCapture:
    """Commits that were handed over, of all databases."""

    def __init__(
        self,
        group: GroupCommit,
        files: FileCapture,
        reactor: Reactor,
        to_fuse: Sender,
        *,
        verdict: Callable[[int, int], None],
    ) -> None:
        """`verdict` gets the gate of a commit that waits, and an errno or 0."""
        self._group = group
        self._files = files
        self._reactor = reactor
        self._to_fuse = to_fuse
        self._verdict = verdict
        self._log = log.get()
        self._acknowledge = 0
        #: the mount that numbers them
        self.incarnation = 0

    def begin(self) -> None:
        self._reactor.later(ACK_S, self._send_acks)

    def pages(self, tracked: Tracked, message: m.CommitPages, payload: list[bytes]) -> None:
        """The pages of a commit that has ended."""
        if not tracked.has_commit(self.incarnation, message.sequence):
            size, data = message.page_size, payload[0] if payload else b""
            pages = [
                (number, data[at * size : (at + 1) * size])
                for at, number in enumerate(message.numbers)
            ]
            capture = (0, 0, message.sequence, self.incarnation)
            try:
                self._group.prepare(tracked, pages, message.pages, size, capture=capture)
            except (ValueError, NotADatabaseError):
                # the log starts here, or has lost its page checksums: all pages are needed
                self._files.request(tracked, numbers=None)
        self.seen(message)

    def seen(self, message: m.CommitPages) -> None:
        """It counts as dealt with from the next append on."""
        self._acknowledge = max(self._acknowledge, message.sequence)

    def file(self, tracked: Tracked, message: m.CommitFile) -> None:
        """A commit waits until its pages have been read from the file."""
        if not tracked.has_commit(self.incarnation, message.sequence):
            numbers = None if message.everything else message.numbers
            capture = (0, 0, message.sequence, self.incarnation)
            try:
                self._files.log_difference(tracked, numbers=numbers, capture=capture)
                if numbers is None and tracked.wal is None:
                    self._files.compared(tracked)  # whoever commits waits: nobody writes it
            except FormatError:  # a program overwrites it: wait for the rest
                self._files.request(tracked, numbers=None)
            except ValueError as error:
                self._log.error("can't read a commit", db=message.database, reason=str(error))
            except FILE_ERRORS as error:
                self._files.unreadable(tracked, error)
        gate = message.gate
        self._group.after(tracked, lambda errno: self._verdict(gate, errno))

    def _send_acks(self) -> None:
        self._reactor.later(ACK_S, self._send_acks)
        self._group.flush()  # what this turn has prepared counts only once it is in the log
        if self._acknowledge and not self._group.stalled_errno:
            self._to_fuse.send(m.PagesLogged(self._acknowledge))
            self._acknowledge = 0
