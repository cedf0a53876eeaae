"""Handing a replica's logs to SQLite, one batch after the other, whatever is in the way.

Touches the files through the mount only, and only while it is admitted there. Always true: a
database that cannot be written now is tried again, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from litemq import log
from litemq.actors.catching_up import CatchingUp
from litemq.actors.failing import BLOCKED, FILE_ERRORS, of_the_disk
from litemq.actors.followed import Followed
from litemq.actors.following import Phase
from litemq.actors.reactor import Reactor
from litemq.errors import FormatError
from litemq.fs.lock_holders import held_by
from litemq.fs.sqlite_errors import BusyError
from litemq.txlog.segment_reader import TooOldError

BUSY_RETRY_S = 0.01
#: from then on a batch waits for readers while it keeps new ones out, once in a while
IMPATIENT_S = 0.5
WAITED_RETRY_S = 0.25
FAILED_RETRY_S = 0.5
OPEN_RETRY_S = 0.1
#: from then on `status` says who is in the way
BLOCKED_S = 2.0


class Applying:
    """The databases of one replica, and what is to be written to them."""

    def __init__(
        self,
        reactor: Reactor,
        followed: dict[str, Followed],
        catching_up: CatchingUp,
        *,
        applied: Callable[[Followed], None],
        appended: Callable[[Followed], None],
        beat: Callable[[], None],
    ) -> None:
        """`followed` is the applier's; `appended` is told whose log has grown, `applied` what shows
        more of it now. `beat` is called again and again while much is read.
        """
        self._reactor = reactor
        self._followed = followed
        self._catching_up = catching_up
        self._applied = applied
        self._appended = appended
        self._beat = beat
        self._log = log.get()

    def open(self, followed: Followed) -> None:
        """Open the writing connection early: it keeps `-wal` and `-shm` there for readers."""
        database = followed.database
        if self._followed.get(database.name) is not followed:
            return
        if database.log.n_pages and not followed.needs_repair:
            try:
                database.writer()
                database.seen()
            except BusyError:  # an application has a transaction open from when it could write
                self._reactor.later(OPEN_RETRY_S, lambda: self.open(followed))
            except OSError:  # the mount has just gone; it comes back with an admission
                pass
            except FILE_ERRORS as error:
                self._catching_up.needs_repair(followed, str(error))

    def apply(self) -> bool:
        """Hand what is in the log to SQLite; true if there is more to do at once."""
        more = False
        now = time.monotonic()
        for followed in self._followed.values():
            database = followed.database
            if followed.retry_s > now or followed.needs_repair:
                continue
            if followed.following.phase is Phase.REPAIRING:
                continue
            if database.caught_up and not database.log.pending_bytes:
                continue
            more = self._apply_one(followed) or more
        return more

    def _apply_one(self, followed: Followed) -> bool:
        database = followed.database
        try:
            if database.flush():
                self._appended(followed)
            if not self._catching_up.admitted:
                return False
            more = database.apply(self._beat)
        except BusyError:
            self._readers_in_the_way(followed)
            return False
        except (FormatError, TooOldError) as error:  # the file, or the log that it is made from
            database.close_writer()
            self._catching_up.needs_repair(followed, str(error))
            return False
        except FILE_ERRORS as error:
            if followed.failing.failed(error, time.monotonic()):
                self._log.warning("can't apply", db=database.name, reason=str(error))
            full = of_the_disk(error)
            if not full:  # else the connection keeps -shm for readers
                database.close_writer()
            self._retry(followed, FAILED_RETRY_S if full else followed.failing.pause_s)
            return False
        followed.state = "ok"
        followed.failing.worked()
        if followed.busy_since_s is not None:
            followed.busy_since_s, followed.blocked_by = None, ""
            database.wait_for_readers(False)
        self._applied(followed)
        return more

    def _readers_in_the_way(self, followed: Followed) -> None:
        """Again soon. If that goes on, more seldom, but keeping new readers out for a moment.

        Readers that overlap would otherwise never leave a rollback-mode database alone.
        """
        now = time.monotonic()
        if followed.busy_since_s is None:
            followed.busy_since_s = now
        if now - followed.busy_since_s < IMPATIENT_S:
            self._retry(followed, BUSY_RETRY_S)
        else:
            followed.database.wait_for_readers(True)
            self._retry(followed, WAITED_RETRY_S)
        if now - followed.busy_since_s >= BLOCKED_S:
            followed.state = BLOCKED
            followed.blocked_by = held_by(str(followed.database.path)).removeprefix("; ")

    def _retry(self, followed: Followed, after_s: float) -> None:
        followed.retry_s = time.monotonic() + after_s
        self._reactor.later(after_s, lambda: None)
