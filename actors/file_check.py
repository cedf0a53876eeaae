"""Reads pages of a primary's database files once more, where the log was believed to have them.

A clean stop leaves checksums that are believed at the next start, so that a node is ready without a
full read; and of what a checkpoint writes it is believed that the WAL had it. What else was done to
the files is found here, slowly, while the node works. Owns which page is next. Never locks or
waits: what it reads may be in the middle of a change, so a page that is not as the log says is only
suspected. Always true: a suspect is looked at again while nobody writes the file, then compared
under SQLite's locks, and nothing is made of it before.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from litemq import log
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.errors import StorageError
from litemq.txlog.checksums import lock_page, page_checksum

#: after the node is ready: who waits for it, and a change of roles, come first
BEGIN_AFTER_S = 2.0
#: 20 MiB a second; at 4 KiB a page that takes 2 % of a processor
PART_BYTES = 1024 * 1024
PAUSE_S = 0.05
#: a suspect is looked at again after this; longer than the mount takes to report a change
LOOK_AGAIN_S = 0.2
#: where the file is written all the time, it is compared after so many looks
MOST_LOOKS = 20


@dataclass(slots=True, eq=False)
class _Reading:
    """Pages of one database, the next of them, and those that were not as the log says."""

    tracked: Tracked
    #: ascending page numbers; None: all that the log knows
    pages: Sequence[int] | None = None
    next: int = 0
    done: Callable[[], object] = lambda: None
    suspects: list[int] = field(default_factory=list)
    #: size and time of the file when they were found, and how often they were looked at
    seen: tuple[int, int] = (0, 0)
    looks: int = 0


class FileCheck:
    """Of all databases of a node, one after the other."""

    def __init__(
        self,
        reactor: Reactor,
        layout: Layout,
        *,
        every_s: float,
        compare: Callable[[Tracked, list[int]], object],
    ) -> None:
        """`compare` is asked to compare pages, as soon as nobody writes. `every_s` 0: once."""
        self._reactor = reactor
        self._layout = layout
        self._every_s = every_s
        self._compare = compare
        self._log = log.get()
        self._waiting: deque[_Reading] = deque()
        self._scheduled = False
        self._pages = self._compared = 0

    def begin(self, databases: Mapping[str, Tracked]) -> None:
        """Check those that are there now in turn; then, whenever it is due, whatever there is."""
        there = dict(databases)
        self._reactor.later(BEGIN_AFTER_S, lambda: self._begin_pass(there, databases))

    def prove(
        self,
        tracked: Tracked,
        numbers: list[int] | None,
        done: Callable[[], object] = lambda: None,
    ) -> None:
        """Check these pages (None: all) before anything else; `done` is called behind it."""
        self._waiting.appendleft(_Reading(tracked, numbers, done=done))
        self._go_on_after(0.0)

    def _begin_pass(self, these: Mapping[str, Tracked], databases: Mapping[str, Tracked]) -> None:
        self._pages = self._compared = 0
        # what is not trusted is compared anyway; what is none in the clear has no log to be held
        # against
        self._waiting.extend(
            _Reading(each) for each in these.values() if each.log.trusted and not each.foreign
        )
        if self._every_s:
            self._reactor.later(self._every_s, lambda: self._next_pass(databases))
        self._go_on_after(0.0)

    def _next_pass(self, databases: Mapping[str, Tracked]) -> None:
        if self._waiting:  # so large are the files: at the end of this one, then
            self._reactor.later(BEGIN_AFTER_S, lambda: self._next_pass(databases))
        else:
            self._begin_pass(databases, databases)

    def _go_on_after(self, pause_s: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._reactor.later(pause_s, self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        if not self._waiting:
            self._log.debug("checked the files", pages=self._pages, compared=self._compared)
            return
        reading = self._waiting[0]
        pause_s = None
        if reading.tracked.gone:  # its log is closed, and compared when it is opened again
            self._end(reading)
            return
        with contextlib.suppress(OSError):  # it is gone: whoever removed it has told the mount
            fd = os.open(self._layout.files / reading.tracked.name, os.O_RDONLY | os.O_CLOEXEC)
            look = self._look_again if reading.looks else self._read
            try:
                pause_s = look(reading, fd)
            finally:
                os.close(fd)
        if pause_s is None:
            self._end(reading)
        else:
            self._go_on_after(pause_s)

    def _end(self, reading: _Reading) -> None:
        self._waiting.remove(reading)
        reading.done()
        self._go_on_after(PAUSE_S)

    def _read(self, reading: _Reading, fd: int) -> float | None:
        """Read the next part; the pause until the next step, None at the end."""
        logged = reading.tracked.log
        size = logged.page_size
        if reading.tracked.comparing is not None:
            return LOOK_AGAIN_S  # that tells more
        pages = range(1, logged.n_pages + 1) if reading.pages is None else reading.pages
        if not size or reading.next >= len(pages):
            if reading.pages is None:
                _note_verified(reading.tracked)
            return None
        part = pages[reading.next : reading.next + max(PART_BYTES // size, 1)]
        reading.next += len(part)
        self._pages += len(part)
        reading.suspects = _suspects(
            reading.tracked, fd, [number for number in part if number <= logged.n_pages]
        )
        if not reading.suspects:
            return PAUSE_S
        reading.seen, reading.looks = _as_it_is(fd), 1
        return LOOK_AGAIN_S

    def _look_again(self, reading: _Reading, fd: int) -> float:
        tracked = reading.tracked
        there = [number for number in reading.suspects if number <= tracked.log.n_pages]
        seen = _as_it_is(fd)
        suspects = _suspects(tracked, fd, there) if there else []
        if not suspects:
            reading.looks = 0
            return PAUSE_S
        if seen == reading.seen or reading.looks >= MOST_LOOKS:
            reading.looks = 0
            self._compared += len(suspects)
            self._compare(tracked, suspects)
            return LOOK_AGAIN_S
        reading.seen = seen
        reading.looks += 1
        return LOOK_AGAIN_S


def _note_verified(tracked: Tracked) -> None:
    tracked.log.state.verified_ms = time.time_ns() // 1_000_000
    with contextlib.suppress(StorageError):  # a full disk: it counts until the next start
        tracked.log.save_state()


def _as_it_is(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns


def _suspects(tracked: Tracked, fd: int, numbers: Iterable[int]) -> list[int]:
    """Those of the pages that neither the file nor its WAL has as logged."""
    logged = tracked.log
    size, lock = logged.page_size, lock_page(logged.page_size)
    wrong = [
        number
        for number in numbers
        if number != lock
        and not _as_logged(number, os.pread(fd, size, (number - 1) * size), tracked)
    ]
    overlay = tracked.wal.overlay() if wrong and tracked.wal is not None else None
    if overlay is None:
        return wrong
    images = ((number, overlay.read(number)) for number in wrong)
    return [
        number
        for number, image in images
        if image is None or page_checksum(number, image) != logged.page_checksum(number)
    ]


def _as_logged(number: int, data: bytes, tracked: Tracked) -> bool:
    """A page that SQLite never wrote has no checksum, and is zeros."""
    known = tracked.log.page_checksum(number)
    return page_checksum(number, data) == known if known else not data.strip(b"\0")
