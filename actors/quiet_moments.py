"""Waits for a moment when nobody writes a database, and has it compared then.

Takes no lock as long as it gets on without: it looks whether somebody writes, and again when the
pages have been read. SQLite's own locks are taken for a database that is never left alone. Never
waits for the mount in the actor's own thread. Always true: no transaction is under way at the
beginning of a comparison, also none of which only the kernel has the journal.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

from litemq.actors.cached_writes import (
    close_in_mount,
    write_out_in_mount,
    write_out_with_journal,
)
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout, is_there
from litemq.actors.quiet import Quiet
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.actors.undisturbed import Undisturbed
from litemq.fs.journal import is_active
from litemq.fs.locks import SharedLock, committing
from litemq.fs.wal_tail import WalTail

LOCK_RETRY_S = 0.005
#: a database is looked at so often without a lock, to find it undisturbed; then locks are taken
MOST_LOOKS = 100
#: a file that stays half written is looked at this often (seconds)
LONGEST_PAUSE_S = 1.0


class QuietMoments:
    """Of all databases that are to be compared."""

    def __init__(
        self,
        reactor: Reactor,
        helper: HelperThread,
        layout: Layout,
        *,
        mount_path: Callable[[str], str],
        ask_report: Callable[[int, str], object],
        compare: Callable[[Quiet], object],
        unopened: Callable[[Tracked], object],
        unreadable: Callable[[Tracked, OSError], object],
        cached: bool,
    ) -> None:
        """`cached`: the kernel caches what is written.

        `compare` gets the moment, and is to end it. `unopened` is told of a file that can't be
        opened in the mount, `unreadable` of one that can't be looked at.

        `ask_report`, with a token and a database, has the mount report what it has not yet;
        `reported` is then to be called with the token.
        """
        self._reactor = reactor
        self._helper = helper
        self._layout = layout
        self._mount_path = mount_path
        self._ask_report = ask_report
        self._compare = compare
        self._unopened = unopened
        self._unreadable = unreadable
        self._cached = cached
        #: those that wait for a report, by its token
        self._asked: dict[int, Quiet] = {}
        #: how often the mount has started over
        self._mounts = 0

    def look_for(self, tracked: Tracked) -> None:
        """Have it compared as soon as nobody writes, if it is to be compared at all."""
        if tracked.comparing is None or tracked.opening:
            return
        if self._in_a_transaction(tracked):  # without a call into the mount that its writer is in
            if self._cached:
                self._have_journal_written(tracked)
            else:
                self.look_again(tracked)
            return
        tracked.opening = True

        def opened(fd: int | None) -> None:
            if fd is None:
                tracked.opening = False
                self._unopened(tracked)
            elif self._cached and tracked.looks < MOST_LOOKS:
                self._write_out_and_look(tracked, fd)
            else:
                self._look(tracked, fd)

        self._helper.open_file(self._mount_path(tracked.name), opened)

    def look_again(self, tracked: Tracked, after_s: float = LOCK_RETRY_S) -> None:
        self._reactor.later(after_s, lambda: self.look_for(tracked))

    def look_later(self, tracked: Tracked) -> None:
        """After a pause that grows."""
        wanted = tracked.comparing
        if wanted is not None:
            wanted.pause_s = min(max(2 * wanted.pause_s, LOCK_RETRY_S), LONGEST_PAUSE_S)
            self.look_again(tracked, wanted.pause_s)

    def give_up(self, quiet: Quiet) -> None:
        """End this moment, and look for another."""
        quiet.end()
        self.look_again(quiet.tracked)

    def reported(self, token: int, *, being_written: bool) -> None:
        """The mount has reported all that was written before we asked with this token."""
        quiet = self._asked.pop(token, None)
        if quiet is not None:
            quiet.being_written = being_written
            self._compare(quiet)

    def start_over(self) -> None:
        """The mount may not answer what it was asked before."""
        self._mounts += 1
        waiting = list(self._asked.values())
        self._asked.clear()
        for quiet in waiting:
            self.give_up(quiet)

    # --- a look

    def _have_journal_written(self, tracked: Tracked) -> None:
        """The kernel alone may know that the transaction has ended."""
        tracked.opening = True
        journal = self._journal_in_mount(tracked)

        def written_out(_: object) -> None:
            tracked.opening = False
            if self._in_a_transaction(tracked):
                self.look_later(tracked)
            else:
                self.look_for(tracked)

        self._helper.call(lambda: write_out_in_mount(journal), written_out)

    def _write_out_and_look(self, tracked: Tracked, fd: int) -> None:
        """What is written from the look on is to be told from what the kernel still has."""
        mounts = self._mounts

        def written_out(_: object) -> None:
            if mounts == self._mounts:
                self._look(tracked, fd)
            else:
                self._not_now(tracked, fd)

        try:
            # in WAL mode a transaction is in the WAL, whatever lock its program has
            busy = (tracked.wal is None or tracked.wal.unshared) and committing(fd)
        except OSError as error:
            self._close(fd)
            tracked.opening = False
            self._unreadable(tracked, error)
            return
        if busy:  # its pages are not asked for one by one
            tracked.looks += 1
            self._not_now(tracked, fd)
        else:
            journal = self._journal_in_mount(tracked)
            self._helper.call(lambda: write_out_with_journal(fd, journal), written_out)

    def _not_now(self, tracked: Tracked, fd: int) -> None:
        self._close(fd)
        tracked.opening = False
        self.look_again(tracked)

    def _look(self, tracked: Tracked, fd: int) -> None:
        """Go on with a database that nobody writes at this moment, or try again."""
        try:
            quiet = None if tracked.comparing is None else self._keep_quiet(tracked, fd)
        except OSError as error:
            self._close(fd)  # and with it the lock
            tracked.opening = False
            self._unreadable(tracked, error)
            return
        if quiet is None:
            self._not_now(tracked, fd)
        elif self._cached:
            # what has been committed may be in the kernel alone
            mounts, journal = self._mounts, self._journal_in_mount(tracked)
            self._helper.call(
                lambda: write_out_with_journal(fd, journal),
                lambda _: self._written_out(quiet, mounts),
            )
        elif self._needs_no_report(quiet):
            self._compare(quiet)
        else:
            self._ask_more(quiet)

    def _needs_no_report(self, quiet: Quiet) -> bool:
        """All pages are compared; but of an empty file, the mount knows whether it will stay so."""
        wanted = quiet.tracked.comparing
        if wanted is None or wanted.numbers is not None:
            return False
        try:
            return os.path.getsize(self._path(quiet.tracked)) > 0
        except OSError:
            return True  # the comparison meets that, too

    def _keep_quiet(self, tracked: Tracked, fd: int) -> Quiet | None:
        """Keep writers from beginning; None if one is in the middle of a transaction."""
        lock, tail = SharedLock(fd), tracked.wal
        wal_lock = None
        if tracked.looks < MOST_LOOKS:
            tracked.looks += 1
            watch = self._watch(tracked, fd, tail)
            if watch is not None:
                return Quiet(tracked, fd, lock, tail, None, self._close, watch)
            return None
        quiet = lock.take() and not self._journal_active(tracked)
        if quiet and tail is not None:
            # without its index it is being opened: there is a lock to be taken
            if not self._cached or tail.has_index or tail.unshared:
                wal_lock = tail.lock_writers()
            quiet = wal_lock is not None
        if not quiet:
            lock.release()
            return None
        locked = Quiet(tracked, fd, lock, tail, wal_lock, self._close)
        if not self._cached:  # else when the kernel has written what it has
            locked.watch = self._watch(tracked, fd, tail)
        return locked

    def _watch(self, tracked: Tracked, fd: int, tail: WalTail | None) -> Undisturbed | None:
        return Undisturbed.begin(
            fd, self._path(tracked), tail, lambda: self._journal_active(tracked),
            cached=self._cached,
        )  # fmt: skip

    def _written_out(self, quiet: Quiet, mounts: int) -> None:
        if mounts != self._mounts:
            self.give_up(quiet)
        elif self._in_a_transaction(quiet.tracked):  # the kernel alone knew of it
            quiet.end()
            self.look_later(quiet.tracked)
        else:
            if quiet.locked:
                quiet.watch = self._watch(quiet.tracked, quiet.fd, quiet.wal)
            self._ask_more(quiet)

    def _ask_more(self, quiet: Quiet) -> None:
        """Others may have been written since the report: without them, we would log half a
        transaction. Now that nobody writes, the mount tells of them, too.
        """
        token = secrets.randbits(62)
        self._asked[token] = quiet
        self._ask_report(token, quiet.tracked.name)

    def _close(self, fd: int) -> None:
        # Not here: the kernel may wait for the file's lock, and a call that has it for us; or it
        # writes first what it caches of the file.
        self._helper.run(lambda: close_in_mount(fd))

    # --- the journal

    def _in_a_transaction(self, tracked: Tracked) -> bool:
        try:
            return self._journal_active(tracked) and is_there(self._path(tracked))
        except OSError:
            return False  # that shows at the file itself, too

    def _journal_in_mount(self, tracked: Tracked) -> str:
        return f"{self._mount_path(tracked.name)}-journal"

    def _journal_active(self, tracked: Tracked) -> bool:
        return journal_active(self._path(tracked))

    def _path(self, tracked: Tracked) -> str:
        return str(self._layout.files / tracked.name)


def journal_active(path: str) -> bool:
    """Whether a transaction is under way in the database at `path`, by its journal.

    Raises OSError.
    """
    try:
        with open(f"{path}-journal", "rb") as journal:
            return is_active(journal.read(1))
    except FileNotFoundError:
        return False
