"""A position that is read on the primary is not older than what was committed before it was read.

So a program that reads `NAME-pos` behind its own commit finds that commit there, and may wait for
it on a replica. Owns the questions that are open. Always true: whoever reads waits for the log
writer for `WAIT_S` at most, and is then shown what is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from litemq.fs.poll_loop import Event, PollLoop
from litemq.transport import messages as m

#: a comparison may wait for a program that writes; a log writer that hangs is started anew
WAIT_S = 1.0


class FreshPositions:
    """Those of one mount."""

    def __init__(self, loop: PollLoop, send: Callable[[m.Message], object], reply_to: str) -> None:
        """`send` reaches the log writer, which answers at `reply_to`."""
        self._loop = loop
        self._send = send
        self._reply_to = reply_to
        self._numbers = itertools.count(1)
        self._open: dict[int, Event[None]] = {}

    async def wait(self, database: str) -> None:
        """Return when all that has been committed to the database is in the log, or time is up."""
        number, event = next(self._numbers), Event[None]()
        self._open[number] = event
        self._loop.call_later(WAIT_S, lambda: self.reached(number))
        self._send(m.Barrier(number, self._reply_to, database))
        await event.wait()

    def reached(self, number: int) -> None:
        """The answer has come, or is waited for no longer."""
        event = self._open.pop(number, None)
        if event is not None:
            event.set()
