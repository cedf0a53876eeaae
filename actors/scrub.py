"""Scrub: compares the databases of a replica with their logs, page by page, again and again.

The log is the primary's: each record was held against the primary's checksum of the whole database.
So a file that is what its log says, at a head that the primary has had, is what the primary has.
Owns which page is next. Always true: one short read at a time, at a bounded rate, without a lock
that keeps anybody waiting; a page is compared only while the file shows all of its log, in the same
turn of the loop, so what differs was changed by somebody else and is repaired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from litemq import log
from litemq.actors import file_image
from litemq.actors.followed import Followed
from litemq.actors.following import Phase
from litemq.actors.reactor import Reactor
from litemq.actors.replica_database import ReplicaDatabase
from litemq.errors import LiteMQError
from litemq.fs.sqlite_errors import BusyError

#: 20 MiB a second at most
PART_BYTES = 1024 * 1024
PAUSE_S = 0.05
#: a database that is being repaired, or is behind, is looked at again after this
LATER_S = 0.25
#: how often it is looked for one that is due (seconds)
LONGEST_LOOK_S = 10.0


class Scrub:
    """Of all databases of a replica, one after the other."""

    def __init__(
        self,
        reactor: Reactor,
        *,
        every_s: float,
        followed: Mapping[str, Followed],
        term: Callable[[], int],
        admitted: Callable[[], bool],
        differs: Callable[[Followed, str], object],
    ) -> None:
        """`every_s` is 0 for never. `term` is the primary's epoch, `admitted` whether the mount is
        there; `differs` is told of a file that is not what its log says, and why.
        """
        self._reactor = reactor
        self._every_s = every_s
        self._followed = followed
        self._term = term
        self._admitted = admitted
        self._differs = differs
        self._name = ""
        self._next_page = 1

    def begin(self) -> None:
        """From now on."""
        if self._every_s:
            self._reactor.later(min(self._every_s, LONGEST_LOOK_S), self._go_on)

    def _go_on(self) -> None:
        followed = self._followed.get(self._name) or self._due()
        if followed is None:
            pause_s = min(self._every_s, LONGEST_LOOK_S)
        elif self._is_quiet(followed):
            pause_s = self._part(followed)
        else:
            pause_s = LATER_S
            self._name = ""  # another one meanwhile; of this, all pages once more
        self._reactor.later(pause_s, self._go_on)

    def _due(self) -> Followed | None:
        """The database that has waited longest, if it is time."""
        now_ms, found, oldest_ms = time.time_ns() // 1_000_000, None, 0
        for followed in self._followed.values():
            done_ms = followed.database.log.state.verified_ms
            due = not 0 <= now_ms - done_ms < self._every_s * 1000
            older = found is None or done_ms < oldest_ms
            if due and older and self._is_quiet(followed):
                found, oldest_ms = followed, done_ms
        self._name, self._next_page = "" if found is None else found.database.name, 1
        return found

    def _is_quiet(self, followed: Followed) -> bool:
        """Whether there is a file, it shows all of its log, and the log is the primary's."""
        database = followed.database
        return (
            self._admitted()
            and database.log.n_pages > 0  # else it was dropped
            and followed.following.phase is Phase.LIVE
            and not followed.needs_repair
            and not database.unlogged
            and database.checked
            and database.log.trusted
            and database.caught_up
            and not database.log.pending_bytes
            and followed.agreed_epoch == self._term()
        )

    def _part(self, followed: Followed) -> float:
        """Compare the next pages; the pause until the next step."""
        database = followed.database
        logged = database.log
        size = logged.page_size or 1
        first, last = self._next_page, self._next_page + max(PART_BYTES // size, 1) - 1
        # one page more than there are: the file must end there
        numbers = range(first, min(last, logged.n_pages + 1) + 1)
        try:
            wrong = self._differing(database, numbers)
        except BusyError:
            return LATER_S
        except (LiteMQError, OSError) as error:
            self._found(followed, str(error))
            return LATER_S
        if wrong:
            self._found(followed, f"a scrub has found {len(wrong)} pages that differ")
            return LATER_S
        self._next_page = last + 1
        if last > logged.n_pages:
            self._name = ""
            self._done(followed)
        return PAUSE_S

    def _differing(self, database: ReplicaDatabase, numbers: range) -> set[int]:
        """Raises BusyError, LiteMQError, OSError."""
        logged = database.log
        stored = database.stored
        if stored is None:
            found = file_image.read_committed(database.path, numbers)
        else:  # what the kernel caches of the mount says nothing of the disk
            # nor does the end of the file before a checkpoint
            numbers = range(numbers.start, min(numbers.stop, logged.n_pages + 1))
            found = file_image.read_stored(stored, numbers, logged.page_size)
        wrong = file_image.differing(
            found, numbers, logged.page_checksum, logged.n_pages, database.tail
        )
        return wrong - file_image.in_wal(stored) if wrong and stored is not None else wrong

    def _found(self, followed: Followed, reason: str) -> None:
        self._name = ""
        followed.database.close_writer()
        file_image.forget_cached(followed.database.path)
        self._differs(followed, reason)

    def _done(self, followed: Followed) -> None:
        logged = followed.database.log
        logged.state.verified_ms = time.time_ns() // 1_000_000
        try:
            logged.save_state()
        except LiteMQError as error:  # a full disk: it counts until the next start
            log.get().debug("can't save when it was verified", reason=str(error))
