"""What a WAL is said to explain is looked at once more, when a database has been left alone.

A checkpoint copies frames that the log has; so what it writes is not captured again. Owns the pages
of which that was believed, until the log writer has compared them. Always true: they are asked for
once nobody has written for a second, and told again to a new log writer until it answers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from litemq.fs.capture import DatabaseCapture
from litemq.fs.pages import MIN_PAGE_SIZE
from litemq.fs.poll_loop import PollLoop
from litemq.transport import messages as m

#: how long a database must have been left alone (seconds)
QUIET_S = 1.0


class WriteProofs:
    """Of all databases of a mount."""

    def __init__(
        self,
        loop: PollLoop,
        send: Callable[..., Any],
        *,
        page_size: Callable[[str], int],
        capturing: Callable[[], bool],
    ) -> None:
        """`page_size` of a database is 0 where its file tells none now."""
        self._loop = loop
        self._send = send
        self._page_size = page_size
        self._capturing = capturing
        self._sequence = itertools.count(1)
        self._asked: dict[int, m.ProveWrites] = {}

    def later(self, capture: DatabaseCapture) -> None:
        """Ask when nobody writes any more."""
        capture.proof_timer = True
        self._loop.call_later(QUIET_S, lambda: self._look(capture))

    def proven(self, sequence: int) -> None:
        """The log has these pages, or they were compared."""
        self._asked.pop(sequence, None)

    def forget(self, database: str) -> None:
        """Its file is gone."""
        self._asked = {
            number: asked for number, asked in self._asked.items() if asked.database != database
        }

    def send_again(self) -> None:
        """To a new log writer."""
        for message in self._asked.values():
            self._send(message)

    def _look(self, capture: DatabaseCapture) -> None:
        capture.proof_timer = False
        if not self._capturing():
            return
        if time.monotonic() - capture.touched_s < QUIET_S:
            self.later(capture)
            return
        # in a database that tells no size, more pages than were written
        size = self._page_size(capture.name) or MIN_PAGE_SIZE
        numbers = capture.claimed.page_numbers(size)
        capture.claimed.clear()
        message = m.ProveWrites(
            next(self._sequence), capture.name, everything=numbers is None, numbers=numbers or []
        )
        self._asked[message.sequence] = message
        self._send(message)
