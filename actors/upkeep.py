"""What a replica does beside following: files are compared, logs synced and shortened.

Looks again and again; decides nothing about the stream. Always true: a file that somebody else has
changed, or that a mount may have left in pieces, is compared with its log before it counts as
checked, and what differs is repaired.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from litemq import log
from litemq.actors import heap, steady_clock
from litemq.actors.catching_up import CatchingUp
from litemq.actors.failing import FILE_ERRORS
from litemq.actors.followed import Followed
from litemq.actors.following import Phase
from litemq.actors.helper_thread import HelperThread
from litemq.actors.log_sync import sync_log
from litemq.actors.reactor import Reactor
from litemq.config import Config
from litemq.fs.sqlite_errors import BusyError
from litemq.transport import messages as m
from litemq.transport.sockets import Sender

LOOK_S = 1.0
SYNC_S = 1.0
RETENTION_S = 5.0


class Upkeep:
    """Of all databases of a replica."""

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        helper: HelperThread,
        *,
        followed: dict[str, Followed],
        catching_up: CatchingUp,
        to_fuse: Sender | None,
        epoch: Callable[[], int],
        all_open: Callable[[], bool],
        checked: Callable[[], object],
        broken: Callable[[Followed, BaseException], object],
        beat: Callable[[], None],
    ) -> None:
        """`epoch` tells the present one, `all_open` whether every log could be opened.

        `checked` is called when a file has been found right, `beat` now and then in long work,
        `broken` with a database whose log has to be opened anew.
        """
        self._config = config
        self._reactor = reactor
        self._helper = helper
        self._followed = followed
        self._catching_up = catching_up
        self._to_fuse = to_fuse if config.caches_writes else None
        self._epoch = epoch
        self._all_open = all_open
        self._checked = checked
        self._broken = broken
        self._beat = beat
        self._log = log.get()
        self._was_admitted = False
        #: the mount that this process may write to, and the last that was told of its files
        self._mount = self._told = 0

    def begin(self) -> None:
        """From now on, again and again."""
        self._reactor.every(LOOK_S, self.look_around)
        self._reactor.every(SYNC_S, self._sync)
        self._reactor.later(RETENTION_S, self._retain)

    # --- mounts that come and go

    def admitted(self, mount: int) -> None:
        """The mount of that incarnation lets this process write."""
        self._was_admitted, self._mount = True, mount
        self._reactor.later(0, self.look_around)

    def mount_died(self) -> None:
        """Connections into it are dead, and what the kernel had cached of its files has gone."""
        self._mount = 0
        for followed in self._followed.values():
            followed.database.close_writer()
            if self._config.caches_writes and self._was_admitted:
                followed.database.lose()

    def applied(self, followed: Followed) -> None:
        """A file shows more of its log, or was repaired."""
        if followed.database.lost and followed.database.caught_up:
            self.look_around()
        self.tell_compared()

    def tell_compared(self) -> None:
        """Let programs read what a mount before this one may have left in pieces."""
        if self._to_fuse is None or self._told == self._mount or not self._all_open():
            return
        if any(each.database.lost or each.needs_repair for each in self._followed.values()):
            return
        self._told = self._mount
        if self._mount:
            self._to_fuse.send(m.AdmitWriter(os.getpid(), compared=self._mount))

    # --- files

    def look_around(self) -> None:
        """Find files that somebody else has changed, and store how far the others are."""
        for followed in self._followed.values():
            database = followed.database
            if database.unlogged and database.lost:
                self._catching_up.log_rest(followed)  # it need not wait for a primary
            try:
                if (
                    self._catching_up.admitted
                    and not followed.needs_repair
                    and not database.unlogged
                    and followed.following.phase is Phase.LIVE
                    and database.caught_up
                    and (database.touched or not database.checked)
                ):
                    self._compare(followed)
                database.save()
            except BusyError:
                continue
            except FILE_ERRORS as error:
                # once is nothing: the file may just be coming or going
                if followed.look_failed and followed.failing.failed(error, time.monotonic()):
                    self._log.warning("housekeeping failed", db=database.name, reason=str(error))
                followed.look_failed = True
            else:
                if followed.look_failed:
                    followed.failing.worked()
                followed.look_failed = False
        self.tell_compared()

    def _compare(self, followed: Followed) -> None:
        database = followed.database
        differing = database.differing_pages(self._beat)
        if differing:
            database.close_writer()
            self._catching_up.needs_repair(
                followed, f"{differing} pages were changed by somebody else"
            )
            return
        database.compared()
        self._checked()

    # --- logs

    def _sync(self) -> None:
        for followed in list(self._followed.values()):
            if followed.database.unsynced:
                followed.database.unsynced = False
                sync_log(self._helper, followed.database.log, partial(self._broken, followed))

    def _retain(self) -> None:
        self._reactor.later(RETENTION_S, self._retain)
        heap.give_back()
        keep = self._config.retention
        for followed in self._followed.values():
            # before the primary's records have followed ours, ours may be what it does not have
            if followed.database.caught_up and followed.agreed_epoch == self._epoch():
                try:
                    followed.database.save()
                    followed.database.log.enforce_retention(
                        steady_clock.now_s(), keep.max_age_s, keep.max_bytes
                    )
                except FILE_ERRORS as error:
                    self._log.warning(
                        "can't delete old log segments", db=followed.database.name,
                        reason=str(error),
                    )  # fmt: skip
