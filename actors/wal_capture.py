"""Capture from write-ahead logs: who is followed, when to look, the gate before frames are lost.

Reads the backing `-wal` files (where writes are cached: those in the mount) and the WAL indexes in
the mount. Never opens a path in the mount in
its own thread: the directory may be held by a call that waits for this actor.
Always true: a gate is answered behind everything published.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from litemq import log
from litemq.actors.cached_writes import REOPEN_S, CachedWrites, close_in_mount
from litemq.actors.failing import FILE_ERRORS
from litemq.actors.group_commit import GroupCommit
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.actors.write_watch import WriteWatch
from litemq.errors import FormatError, NotADatabaseError, StorageError
from litemq.fs.mount import GONE
from litemq.fs.wal_tail import ResumePoint, WalCommit, WalTail

#: how long commits are gathered into one group after one has been taken
GATHER_S = 0.001
#: a gate waits so often and so long for the index to be opened, or for a comparison
INDEX_RETRIES = 20
INDEX_RETRY_S = 0.005
#: who is in a write transaction when its WAL is to be sealed has this long to end it
SEAL_S = 0.2


class WalCapture:
    """The WALs of all databases of a node."""

    def __init__(
        self,
        group: GroupCommit,
        reactor: Reactor,
        helper: HelperThread,
        layout: Layout,
        *,
        mount_path: Callable[[str], str],
        on_rewound: Callable[[Tracked], None],
        on_doubt: Callable[[Tracked], None],
        on_left_behind: Callable[[Tracked, list[int] | None], None],
        look: Callable[[Tracked], object],
        beat: Callable[[], None],
        broken: Callable[[str, BaseException], object],
        cached: CachedWrites | None = None,
        backlog_bytes: int = sys.maxsize,
    ) -> None:
        """`beat` is called again and again while much is read. `broken` is told of a database that
        can't go on as it is: what its WAL has is to be compared.

        `cached`: who opens `-wal` files in the mount, where writes are cached. `on_doubt` is then
        called when frames may have been missed; a comparison is to follow. `on_left_behind` is told
        pages that a WAL had, and that the database must have now that the WAL has not. `look` has a
        database compared at once that is to be compared, if nobody writes it.

        `backlog_bytes`: of a WAL that is further behind, all is taken as one transaction.
        """
        self._group = group
        self._reactor = reactor
        self._helper = helper
        self._layout = layout
        self._mount_path = mount_path
        self._on_rewound = on_rewound
        self._on_doubt = on_doubt
        self._on_left_behind = on_left_behind
        self._look_now = look
        self._backlog_bytes = backlog_bytes
        self._cached = cached
        self._beat = beat
        self._broken = broken
        self._log = log.get()
        self._watched: dict[str, Tracked] = {}
        self._watch = WriteWatch(reactor, self._written)

    # --- which files

    def tail_of(self, tracked: Tracked) -> WalTail:
        """A tail of the backing file that goes on where the log ends."""
        return self._tail(tracked, tracked.resume_point)

    def _tail(self, tracked: Tracked, resume: ResumePoint | None) -> WalTail:
        return WalTail(
            f"{self._layout.files / tracked.name}-wal",
            resume,
            beat=self._beat,
            recovery=self._layout.recovery,
            backlog_bytes=self._backlog_bytes,
        )

    def _followed(self, tracked: Tracked, *, made: bool) -> WalTail:
        if tracked.wal is None:
            # a new file may be a copy of one that was here before, laid over an older database
            resume = None if made else tracked.resume_point
            tracked.wal = self._tail(tracked, resume)
            if self._cached is not None:
                tracked.wal = WalTail(
                    tracked.wal.path,
                    resume,
                    cached=True,
                    beat=self._beat,
                    backlog_bytes=self._backlog_bytes,
                    close=lambda fd: self._helper.run(lambda: close_in_mount(fd)),
                )
        return tracked.wal

    def open(self, tracked: Tracked, *, made: bool = True, doubt: bool = False) -> None:
        """There is a `-wal`: follow it. `made`: it is new. `doubt`: frames may have been missed;
        the caller has asked for a comparison. Raises OSError.
        """
        tail = self._followed(tracked, made=made)
        tail.doubt = tail.doubt or doubt
        if self._cached is None:
            if tail.open():
                self._follow(tracked, tail.path)
            return
        tracked.wal_serial += 1
        serial = tracked.wal_serial

        def opened(fd: int) -> None:
            if serial != tracked.wal_serial:
                close_in_mount(fd)
                return
            tail.use_file(fd)
            # what was written before it is not in the log yet, and is to come first
            tail.doubt = tracked.comparing is not None
            self._log.debug("following the WAL", db=tracked.name, doubt=tail.doubt)
            self._follow(tracked, f"/proc/self/fd/{fd}")

        self._cached.open_wal(tracked.name, opened)

    def _follow(self, tracked: Tracked, path: str) -> None:
        self._watch.add(path, tracked.name)
        self._watched[tracked.name] = tracked
        self.collect(tracked)

    def close(self, tracked: Tracked) -> None:
        """The `-wal` is gone, or the mount has changed."""
        tracked.wal_serial += 1
        if tracked.wal is not None:
            self._watch.remove(tracked.name)
            self._watched.pop(tracked.name, None)
            tracked.wal.close()
            self._prove(tracked, tracked.wal)
            tracked.wal = None

    def _prove(self, tracked: Tracked, tail: WalTail) -> None:
        if tail.left_behind:
            self._on_left_behind(tracked, tail.left_behind.take())

    def open_index(self, tracked: Tracked) -> None:
        """There is a `-shm`: have it opened in the mount."""
        tracked.shm_serial += 1
        serial = tracked.shm_serial

        def opened(fd: int | None) -> None:
            if serial != tracked.shm_serial:
                if fd is not None:
                    close_in_mount(fd)
            elif fd is None:
                # We heard of it before the kernel did: it still knows that there is no such file.
                if os.path.exists(f"{self._layout.files / tracked.name}-shm"):
                    self._reactor.later(REOPEN_S, open_now)
            else:
                self._followed(tracked, made=True).use_index(fd)
                self.collect(tracked)

        def open_now() -> None:
            if serial == tracked.shm_serial:
                path = f"{self._mount_path(tracked.name)}-shm"
                self._helper.open_file(path, opened, writing=True)

        open_now()

    def close_index(self, tracked: Tracked) -> None:
        """The `-shm` is gone."""
        tracked.shm_serial += 1
        if tracked.wal is not None:
            tracked.wal.close_index()

    # --- when to look

    def _written(self) -> None:
        taken = False
        for name in self._watch.take():
            tracked = self._watched.get(name)
            if tracked is not None:
                taken = self.collect(tracked) or taken
        if taken:
            # Under load, commits of the next moment make one group: fewer wake-ups for all behind.
            self._watch.rest(GATHER_S)

    def collect(self, tracked: Tracked) -> bool:
        """Take what is published; whether there was anything.

        If frames are written but not published yet, look again soon.
        """
        tail = tracked.wal
        if tail is None:
            return False
        taken = self.take(tracked, tail, chain=tail.unshared)
        try:
            waiting = tail.unpublished and not tail.failed
        except OSError:  # the mount has died; with the next one everything is looked at anew
            waiting = False
        if not waiting:
            tracked.look_again = 0
            return taken
        tracked.look_again = 0 if taken else tracked.look_again + 1
        if 1 <= tracked.look_again <= 3:
            # publication follows the last write by some µs; a timer would take a millisecond
            time.sleep(20e-6 * tracked.look_again)
        if not tracked.look_scheduled:
            tracked.look_scheduled = True
            self._reactor.later(_pause_s(tracked.look_again), lambda: self._look(tracked))
        return taken

    def _look(self, tracked: Tracked) -> None:
        tracked.look_scheduled = False
        self.collect(tracked)

    # --- taking

    def take(self, tracked: Tracked, tail: WalTail, *, chain: bool, blank_up_to: int = 0) -> bool:
        """Prepare a record of every commit that is there now; false if there was none.

        Not of those that come meanwhile: a writer may be faster, and others wait for this actor.
        `tail.failed` tells whether it could not be read to its end.
        """
        any_taken = tail.failed = False
        try:
            published = tail.published(chain=chain)
            commits = tail.collect(chain=chain, blank_up_to=blank_up_to)
            if tail.rewound:
                tail.rewound = False
                self._log.warning("SQLite's recovery lost committed frames", db=tracked.name)
                self._on_rewound(tracked)
            while commits:
                for commit in commits:
                    self._prepare(tracked, commit)
                    any_taken = True
                self._group.flush_if_large(tracked)
                self._beat()
                if tail.has_taken(published):
                    break
                commits = tail.collect(chain=chain, blank_up_to=blank_up_to)
            followed = tail is tracked.wal  # else the database is at rest, and more is to come
            if followed and tracked.failing.reason and tracked.comparing is None:
                tracked.failing.worked()
        except OSError as error:
            self._unreadable(tracked, tail, error)
        except FormatError as error:  # overwritten while it was read
            self._log.info("the WAL has started over; comparing", reason=str(error))
            tail.failed = True
            self._on_rewound(tracked)
        except FILE_ERRORS as error:
            tail.failed = True
            self._broken(tracked.name, error)
            return any_taken
        self._prove(tracked, tail)
        if tail.doubt and tracked.comparing is None:
            self._log.debug("frames may have been missed; comparing", db=tracked.name)
            self._on_doubt(tracked)
        return any_taken

    def _unreadable(self, tracked: Tracked, tail: WalTail, error: OSError) -> None:
        """The mount is gone (it comes back with a resynchronisation), or the file can't be read."""
        gone = error.errno in GONE
        if gone:
            self._log.info("the mount is gone while its WAL is read", db=tracked.name)
        else:
            if not tracked.failing.reason:
                self._log.warning("can't read the WAL", db=tracked.name, reason=str(error))
            tracked.failing.failed(error, time.monotonic())
            self._reactor.later(tracked.failing.pause_s, lambda: self.collect(tracked))
        tail.failed = True
        tail.close_index()
        if self._cached is not None or not gone:
            self.open_index(tracked)

    def _prepare(self, tracked: Tracked, commit: WalCommit) -> None:
        """Make a record of it; where that can't be, the database is compared as a whole."""
        try:
            self._group.prepare(
                tracked,
                commit.pages,
                commit.n_pages,
                commit.page_size,
                capture=(*commit.salts, commit.offset, commit.size),
            )
        except NotADatabaseError:
            if not tracked.foreign:
                self._on_rewound(tracked)
        except ValueError:
            self._on_rewound(tracked)

    def take_published(self, tracked: Tracked) -> None:
        """Take everything that is committed at this moment."""
        if tracked.wal is not None:
            self.take(tracked, tracked.wal, chain=tracked.wal.unshared)

    def gate(
        self,
        tracked: Tracked,
        wal_end: int,
        verdict: Callable[[int, int, bool], None],
        patience: int = INDEX_RETRIES,
    ) -> None:
        """Take everything; then `verdict` gets an errno or 0, and how far the WAL is in the log.

        Where that fails the gate opens, when it has been noted that the database must be compared.
        Also whether that is all there was, for certain: where writes are cached it may not be.
        `wal_end`: how far the WAL was written when the gate closed (bytes).
        """
        try:
            self._pass_gate(tracked, wal_end, verdict, patience)
        except FILE_ERRORS as error:
            self._broken(tracked.name, error)
            verdict(0, wal_end, True)

    def _pass_gate(
        self,
        tracked: Tracked,
        wal_end: int,
        verdict: Callable[[int, int, bool], None],
        patience: int,
    ) -> None:
        if tracked.wal is None:
            self.open(tracked)
        tail = tracked.wal
        if tail is not None and patience and not self._can_be_read(tail):
            # The index is being opened. Should the directory be held, by this very call perhaps,
            # the checksums have to do.
            self._reactor.later(
                INDEX_RETRY_S, lambda: self.gate(tracked, wal_end, verdict, patience - 1)
            )
            return
        if tail is not None:
            # Whoever checkpoints has committed: also frames that only its own index vouches for.
            self.take(tracked, tail, chain=not tail.has_index or tail.unshared, blank_up_to=wal_end)
            if patience and self._waits_for_comparison(tracked, tail):
                # a program that is alone leaves it alone at its gate, and perhaps nowhere else
                self._look_now(tracked)
                self._reactor.later(
                    INDEX_RETRY_S, lambda: self.gate(tracked, wal_end, verdict, patience - 1)
                )
                return
            if self._cached is None and tail.restarting:
                self.take(tracked, tail, chain=True, blank_up_to=wal_end)
            if tail.failed and tracked.failing.reason:
                raise StorageError(tracked.failing.reason)
        captured_end = 0 if tail is None else tail.captured_end
        proven = self._cached is None or (tail is not None and tail.was_read)
        if tail is not None and proven:
            tail.gated()
        elif self._cached is not None and (tail is None or not tail.doubt):
            self._on_doubt(tracked)  # it could not be opened in time
        self._group.after(tracked, lambda errno: verdict(errno, captured_end, proven))

    def _waits_for_comparison(self, tracked: Tracked, tail: WalTail) -> bool:
        """Whether it is to be compared, and that may well be done while a gate is closed."""
        wanted = tracked.comparing
        if self._cached is None or wanted is None or wanted.pause_s or tracked.failing.reason:
            return False
        return tail.has_index and not tail.unshared

    def _can_be_read(self, tail: WalTail) -> bool:
        opened = self._cached is None or tail.is_open
        return opened and (tail.has_index or tail.unshared)

    # --- the end of a mount whose writes are cached

    def last_look(self, tracked: Tracked) -> None:
        """Let nobody commit to the WAL any more, and take what is in it. The log says if it can't.

        The kernel goes on with what it caches when the mount has died: programs that have the files
        open could commit to nowhere. Their next transaction is refused with SQLITE_CANTOPEN.
        """
        tail = tracked.wal
        if tail is None or not tail.is_open or tail.sealed:
            return
        lock = tail.lock_writers()
        end_s = time.monotonic() + SEAL_S
        while lock is None and time.monotonic() < end_s:
            time.sleep(0.002)
            lock = tail.lock_writers()
        self._beat()
        self.take_published(tracked)
        reason = ""
        if lock is None:
            reason = "a transaction is under way"
        elif not tail.has_index:
            reason = "there is no index"
        elif tail.doubt:
            reason = "frames may have been missed"
        else:
            try:
                tail.seal()
            except OSError as error:
                reason = str(error)
        if lock is not None:
            lock.release()
        self._log.info("sealed the WAL", db=tracked.name, unless=reason)


def _pause_s(looks: int) -> float:
    """How long to wait before looking again at frames that are written but not published."""
    if 1 <= looks <= 3:
        return 0.0
    if looks <= 50:
        return GATHER_S
    return 0.01 if looks <= 200 else 0.1
