"""Capture by comparing a database file with the log: what neither a journal nor a WAL explains.

At rest (nobody has the mount yet) the files alone tell what is committed. In use, SQLite's locks
are taken as any client takes them, so that no transaction is under way while pages are read.
Always true: what differs becomes one transaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from litemq import log
from litemq.actors.group_commit import GroupCommit
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Capture, Tracked
from litemq.actors.wal_capture import REOPEN_S, WalCapture, close_in_mount
from litemq.errors import FormatError, NotADatabaseError
from litemq.fs.comparison import compare
from litemq.fs.journal import is_active
from litemq.fs.locks import SharedLock
from litemq.fs.wal_tail import Overlay, WalTail

LOCK_RETRY_S = 0.005


class FileCapture:
    """Compares database files with their logs."""

    def __init__(
        self,
        group: GroupCommit,
        wals: WalCapture,
        reactor: Reactor,
        helper: HelperThread,
        layout: Layout,
        *,
        mount_path: Callable[[str], str],
        explained: Callable[[str, int], object],
        beat: Callable[[], None],
    ) -> None:
        """`explained` is told database and report number when a report has been dealt with."""
        self._group = group
        self._wals = wals
        self._reactor = reactor
        self._helper = helper
        self._layout = layout
        self._mount_path = mount_path
        self._explained = explained
        self._beat = beat
        self._log = log.get()

    # --- at rest

    def recover(self, tracked: Tracked, *, compare_all: bool) -> None:
        """Take what the WAL holds, then compare if need be. Raises FormatError, OSError."""
        tail = self._wals.tail_of(tracked)
        forgotten = False
        try:
            if tail.open():
                self._wals.take(tracked, tail, chain=True)
                forgotten = tail.forget_what_recovery_forgets()
            if forgotten or compare_all or not tracked.log.trusted or not tracked.log.n_pages:
                self._compare_at_rest(tracked, tail)
        finally:
            tail.close()

    def _compare_at_rest(self, tracked: Tracked, tail: WalTail) -> None:
        if self._journal_active(tracked):
            return  # mid-transaction; when the journal ends, the mount has everything compared
        if os.path.getsize(self._path(tracked)) == 0:
            self._group.drop(tracked)
        elif self.log_difference(tracked, overlay=tail.overlay(), capture=tail.position()):
            self._log.warning(
                "the database had changed without its log; logged as one transaction",
                db=tracked.name,
                txid=tracked.log.head.txid,
            )

    # --- in use

    def request(self, tracked: Tracked, *, sequence: int = 0, numbers: list[int] | None) -> None:
        """Compare these pages (None: all) as soon as nobody writes; `sequence` is the report's."""
        tracked.compare_later(sequence, numbers)
        self._try(tracked)

    def _try(self, tracked: Tracked) -> None:
        if tracked.comparing is None or tracked.opening:
            return
        tracked.opening = True

        def again() -> None:
            self._try(tracked)

        def opened(fd: int | None) -> None:
            tracked.opening = False
            if fd is None:
                if os.path.exists(self._path(tracked)):
                    self._reactor.later(REOPEN_S, again)
                else:
                    tracked.comparing = None  # unlinked meanwhile
                return
            try:
                done = tracked.comparing is None or self._compare_locked(tracked, fd)
            finally:
                close_in_mount(fd)  # an OFD lock goes with its descriptor
            if not done:
                self._reactor.later(LOCK_RETRY_S, again)

        self._helper.open_file(self._mount_path(tracked.name), opened)

    def _compare_locked(self, tracked: Tracked, fd: int) -> bool:
        """Compare now if no writer is in the middle of a transaction; false: try again."""
        if not SharedLock(fd).take() or self._journal_active(tracked):
            return False
        tail = tracked.wal
        locks = None if tail is None else tail.lock_writers()
        if tail is not None and locks is None:
            return False
        try:
            self._compare_now(tracked)
        except NotADatabaseError as error:
            self._log.info(
                "not a SQLite database; not replicated", db=tracked.name, reason=str(error)
            )
        except FormatError:
            return False  # half written: wait for the rest
        except FileNotFoundError:
            pass
        finally:
            if locks is not None:
                locks.release()
        self._done(tracked)
        return True

    def _compare_now(self, tracked: Tracked) -> None:
        wanted, tail = tracked.comparing, tracked.wal
        assert wanted is not None
        overlay, capture = None, tracked.last_capture
        if tail is not None:
            self._wals.take_published(tracked)
            overlay, capture = tail.overlay(), tail.position() or capture
        self.log_difference(tracked, numbers=wanted.numbers, overlay=overlay, capture=capture)

    def _done(self, tracked: Tracked) -> None:
        wanted, tracked.comparing = tracked.comparing, None
        name, sequence = tracked.name, 0 if wanted is None else wanted.sequence

        def tell(errno: int) -> None:
            if not errno and sequence:
                self._explained(name, sequence)

        self._group.after(tracked, tell)

    # --- both

    def log_difference(
        self,
        tracked: Tracked,
        *,
        numbers: list[int] | None = None,
        overlay: Overlay | None = None,
        capture: Capture | None = None,
    ) -> bool:
        """Prepare a record of what differs between the file and the log; false if nothing does.

        Raises FormatError when the file is no whole database, OSError.
        """
        trusted = tracked.log.trusted
        changed = compare(
            self._path(tracked),
            tracked.log.page_checksum,
            known_size=(tracked.log.page_size, tracked.log.n_pages),
            numbers=numbers if trusted else None,
            overlay=overlay,
            everything=not trusted,
            beat=self._beat,
        )
        if not trusted:
            self._group.after(tracked, lambda errno: _trust(tracked, errno))
        return self._group.prepare(
            tracked, changed.pages, changed.commit, changed.page_size, capture=capture
        )

    def _path(self, tracked: Tracked) -> str:
        return str(self._layout.files / tracked.name)

    def _journal_active(self, tracked: Tracked) -> bool:
        try:
            with open(f"{self._path(tracked)}-journal", "rb") as journal:
                return is_active(journal.read(1))
        except FileNotFoundError:
            return False


def _trust(tracked: Tracked, errno: int) -> None:
    """The whole database has been compared, and the difference is in the log."""
    if not errno and not tracked.log.pending_bytes:
        tracked.log.mark_trusted()
