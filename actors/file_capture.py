"""Capture by comparing a database file with the log: what neither a journal nor a WAL explains.

At rest (nobody has the mount yet) the files alone tell what is committed. In use, SQLite's locks
are taken as any client takes them, so that no transaction is under way while pages are read.
Always true: what differs becomes one transaction.
"""

from __future__ import annotations

import contextlib
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

from litemq import log
from litemq.actors.bring_forward import bring_forward, find_images, missing_pages
from litemq.actors.failing import FILE_ERRORS
from litemq.actors.group_commit import GroupCommit
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout, is_there
from litemq.actors.page_spool import PageSpool
from litemq.actors.quiet import Quiet
from litemq.actors.quiet_moments import MOST_LOOKS, QuietMoments, journal_active
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Capture, Tracked
from litemq.actors.wal_capture import WalCapture
from litemq.errors import (
    BehindLogError,
    FormatError,
    NotADatabaseError,
    NotInTheClearError,
    StorageError,
)
from litemq.fs.comparison import Changed, compare
from litemq.fs.mount import GONE
from litemq.fs.overlay import Overlay
from litemq.fs.wal_tail import WalTail

#: of pages that differ, read before it is known whether somebody wrote meanwhile (bytes)
UNLOCKED_BYTES = 8 * 1024 * 1024

#: a file that was emptied and is still open for writing is no database any more after this
STAYS_EMPTY_S = 3.0


class _DisturbedError(Exception):
    """Somebody wrote while pages were read without a lock, or they are too many for that."""


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
        ask_report: Callable[[int, str], object],
        beat: Callable[[], None],
        compared: Callable[[Tracked], object],
        broken: Callable[[str, BaseException], object],
        cached: bool = False,
    ) -> None:
        """`cached`: the kernel caches what is written, and the file may be behind its log.

        `compared` is told when all of a database is in the log, `broken` when its log fails.

        `explained` is told database and report number when a report has been dealt with.

        `ask_report`, with a token and a database, has the mount report what it has not yet;
        `reported` is then to be called with the token.
        """
        self._group = group
        self._wals = wals
        self._layout = layout
        self._explained = explained
        self._cached = cached
        self._moments = QuietMoments(
            reactor,
            helper,
            layout,
            mount_path=mount_path,
            ask_report=ask_report,
            compare=self._compare_quiet,
            unopened=self._unopened,
            unreadable=self.unreadable,
            cached=cached,
        )
        self._beat = beat
        self._all_compared = compared
        self._broken = broken
        self._log = log.get()

    # --- at rest

    def recover(self, tracked: Tracked, *, compare_all: bool, log_counts: bool) -> None:
        """Take what the WAL holds, then compare if need be.

        `log_counts`: where writes are cached the file may be behind its log, and gets what it
        lacks. Raises FormatError, OSError, StorageError; BehindLogError if that can't be done.
        """
        tail = self._wals.tail_of(tracked)
        forgotten = equal = False
        logged_from: int | None = None
        try:
            if tail.open():
                self._wals.take(tracked, tail, chain=True)
                if tail.failed and tracked.failing.reason:
                    raise StorageError(tracked.failing.reason)
                if self._cached and compare_all and log_counts:
                    tail.stop_where_recovery_stops()
                    equal = self._bring_forward(tracked, tail)
                else:
                    forgotten = tail.forget_what_recovery_forgets()
                    if not forgotten and tracked.comparing is None and not tracked.foreign:
                        logged_from = tail.resumed  # behind that it was taken just now
            logged = tracked.log
            doubtful = compare_all or logged.state.unlogged or not logged.trusted
            if equal:
                self._group.after(tracked, lambda errno: self._compared(tracked, errno))
            elif forgotten or doubtful or not logged.n_pages:
                self._compare_at_rest(tracked, tail, logged_from)
        except FormatError:
            tracked.mark_unlogged(True)
            raise
        finally:
            tail.close()

    def _bring_forward(self, tracked: Tracked, tail: WalTail) -> bool:
        """In WAL mode, and after the kernel's cache was lost, the log may be ahead of the file.

        True if the file is in every page what the log says.
        """
        self._group.flush()
        logged, path = tracked.log, self._layout.files / tracked.name
        if not logged.trusted or not logged.n_pages or journal_active(self._path(tracked)):
            return False
        try:
            with compare(
                str(path),
                logged.page_checksum,
                known_size=(logged.page_size, logged.n_pages),
                overlay=tail.overlay(),
                beat=self._beat,
            ) as differs:
                if differs.page_size != logged.page_size:
                    return False
                differing = array("L", (number for number, _ in differs.pages))
                missing = missing_pages(logged, differing, differs.commit)
        except (FormatError, FileNotFoundError):
            return False  # half there, or gone: that is dealt with as ever
        if not missing and differs.commit == logged.n_pages:
            return not differing
        try:
            with closing(PageSpool(logged.directory, logged.page_size)) as images:
                try:
                    if not find_images(logged, missing, images, self._beat):
                        return False  # the file counts
                except FormatError:
                    return False
                tail.close()
                bring_forward(path, logged, images)
        except FILE_ERRORS as error:
            raise BehindLogError(
                f"can't be brought forward to its log: {error or type(error).__name__}",
                getattr(error, "errno", None),
            ) from error
        self._log.info(
            "the database was behind its log; brought forward",
            db=tracked.name,
            txid=logged.head.txid,
            pages=len(missing),
        )
        # page 1 as SQLite has written it now
        self.log_difference(tracked, numbers=missing)
        return False

    def take_over(self, tracked: Tracked, *, compare_all: bool = False) -> None:
        """Go on with the log of a file that this node has applied as a replica until now.

        What its WAL holds is in the log already. Page 1 differs by SQLite's own bookkeeping. Raises
        FormatError when the file does not show all of the log, OSError.
        """
        if tracked.log.state.applied != tracked.log.head:
            raise FormatError(
                "the node had not applied all that it has as a replica; start it as one first"
            )
        tail = self._wals.tail_of(tracked)
        try:
            if tail.open():
                tail.skip()
            tracked.is_primary_now(tail.position())
            differs = self.log_difference(
                tracked,
                numbers=None if compare_all else [1],
                overlay=tail.overlay(),
                capture=tail.position(),
            )
            if not differs:
                tracked.log.save_state()
        finally:
            tail.close()

    def settle(self, tracked: Tracked, *, fenced: bool) -> bool:
        """Take all that is committed, at the end; false if somebody may be about to end a commit.

        `fenced`: the mount refuses commits.

        In WAL mode a commit ends in shared memory: writers that are refused cannot begin, but one
        that was stopped behind its last frame may publish it when it wakes. And frames whose writer
        has died or was refused become a commit when SQLite recovers the WAL.
        """
        wal = tracked.wal
        all_told = tracked.comparing is None and not tracked.log.state.unlogged
        if wal is None:
            return all_told
        being_written = wal.being_written
        self._wals.take_published(tracked)
        seen = wal.has_index or wal.unshared
        # a commit that was refused its sync must go: the index will be another
        if fenced and self._cached and not being_written and wal.has_index and wal.strike_out():
            return all_told
        return not (being_written or wal.unpublished) and seen and all_told

    def hand_back(self, tracked: Tracked) -> None:
        """What a replica needs to know of the file, if this node becomes one."""
        if not tracked.log.n_pages:
            return
        overlay = None if tracked.wal is None else tracked.wal.overlay()
        page1 = None if overlay is None else overlay.read(1)
        if page1 is None:
            with (
                contextlib.suppress(FileNotFoundError),
                open(self._path(tracked), "rb") as file,
            ):
                page1 = file.read(tracked.log.page_size)
        if page1 is not None and len(page1) == tracked.log.page_size:
            tracked.hand_back(page1)

    def _compare_at_rest(self, tracked: Tracked, tail: WalTail, logged_from: int | None) -> None:
        if journal_active(self._path(tracked)):
            # mid-transaction; when the journal ends, the mount has everything compared
            tracked.mark_unlogged(True)
            return
        if os.path.getsize(self._path(tracked)) == 0:
            self._group.drop(tracked)
        elif self.log_difference(
            tracked, overlay=tail.overlay(), capture=tail.position(), logged_from=logged_from
        ):
            self._warn_of_change(tracked)

    def _warn_of_change(self, tracked: Tracked) -> None:
        self._log.warning(
            "the database had changed without its log; logged as one transaction",
            db=tracked.name, txid=tracked.log.head.txid,
        )  # fmt: skip

    # --- in use

    def request(
        self,
        tracked: Tracked,
        *,
        sequence: int = 0,
        numbers: list[int] | None,
        unexpected: bool = False,
    ) -> None:
        """Compare these pages (None: all) as soon as nobody writes; `sequence` is the report's.

        `unexpected`: warn if anything differs.
        """
        tracked.compare_later(sequence, numbers, unexpected=unexpected)
        self._moments.look_for(tracked)

    def _nothing_there(self, tracked: Tracked) -> None:
        """The file has lost its name meanwhile: there is nothing to be compared."""
        if tracked.wal is not None and tracked.wal.doubt:
            with contextlib.suppress(FormatError, OSError):
                tracked.wal.skip_published()
            tracked.wal.doubt = False
        self._done(tracked)

    def look(self, tracked: Tracked) -> None:
        """Do not wait any longer before it is looked at, if it is to be compared."""
        self._moments.look_for(tracked)

    def compared(self, tracked: Tracked) -> None:
        """All of it has been compared, at a moment when nobody wrote it."""
        if tracked.comparing is not None:
            self._done(tracked)

    def reported(self, token: int, *, being_written: bool) -> None:
        """The mount has reported all that was written before this token was sent."""
        self._moments.reported(token, being_written=being_written)

    def start_over(self) -> None:
        """The mount may not answer what it was asked before."""
        self._moments.start_over()

    def _compare_quiet(self, quiet: Quiet) -> None:
        tracked = quiet.tracked
        if (self._cached or quiet.watch is not None) and tracked.wal is not quiet.wal:
            self._moments.give_up(quiet)  # what is locked is not what would be compared
            return
        try:
            if tracked.comparing is not None:
                if tracked.comparing.unexpected:  # programs are to see what is logged
                    os.posix_fadvise(quiet.fd, 0, 0, os.POSIX_FADV_DONTNEED)
                self._compare_now(tracked, quiet)
        except _DisturbedError:
            if quiet.locked:  # by somebody whom locks do not keep out
                self._moments.look_later(tracked)
            else:
                self._moments.look_again(tracked)
            return
        except NotADatabaseError as error:
            if not self._was_still(quiet):
                self._moments.look_again(tracked)
                return
            self._not_a_database(tracked, error)
        except FormatError:
            if tracked.comparing is not None:
                tracked.comparing.half_there(quiet.begun_s)
            self._moments.look_later(tracked)  # for the rest
            return
        except FileNotFoundError:
            pass
        except OSError as error:
            self.unreadable(tracked, error)
            return
        except FILE_ERRORS as error:
            self._broken(tracked.name, error)
            return
        finally:
            quiet.end()
        self._done(tracked)

    def unreadable(self, tracked: Tracked, error: BaseException) -> None:
        """The file can't be read now: all of it is compared when it can."""
        if getattr(error, "errno", None) in GONE:  # the mount has died, or is about to
            self._moments.look_later(tracked)
            return
        tracked.compare_later(0, None)
        if tracked.failing.failed(error, time.monotonic()):
            self._log.warning("can't read the database", db=tracked.name, reason=str(error))
        self._moments.look_again(tracked, tracked.failing.pause_s)

    def _unopened(self, tracked: Tracked) -> None:
        """It was unlinked meanwhile, or we heard of it before the kernel did, or it refuses."""
        try:
            if not is_there(self._path(tracked)):
                self._nothing_there(tracked)
                return
            os.close(os.open(self._path(tracked), os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self.unreadable(tracked, error)
        else:
            self._moments.look_later(tracked)

    def _not_a_database(self, tracked: Tracked, error: NotADatabaseError) -> None:
        known, tracked.foreign = tracked.foreign, True
        if known:
            return
        if tracked.log.n_pages:
            self._log.warning(
                "the database was overwritten by what is none; replicas keep its last state",
                db=tracked.name, reason=str(error),
            )  # fmt: skip
        elif isinstance(error, NotInTheClearError):  # somebody expects it on the replicas
            self._log.warning(
                "not a SQLite database; not replicated", db=tracked.name, reason=str(error)
            )
        else:
            self._log.info(
                "not a SQLite database; not replicated", db=tracked.name, reason=str(error)
            )

    def _was_still(self, quiet: Quiet) -> bool:
        try:
            return quiet.still()
        except OSError:  # the mount has died
            return False

    def _compare_now(self, tracked: Tracked, quiet: Quiet) -> None:
        wanted, tail = tracked.comparing, tracked.wal
        assert wanted is not None
        if not os.path.getsize(self._path(tracked)):
            if not quiet.still():
                raise _DisturbedError
            half_there_s = quiet.begun_s - wanted.half_there_since_s
            # our locks keep out nobody who takes none
            overwritten = quiet.being_written or quiet.locked
            if overwritten and half_there_s < STAYS_EMPTY_S:
                raise FormatError("the database is being overwritten")
            self._group.drop(tracked)  # to SQLite it is a database without a page
            return
        overlay, capture, numbers = None, tracked.last_capture, wanted.numbers
        missed = False
        if tail is not None:
            missed = tail.doubt
            if missed:
                tail.skip_published()
            else:
                self._wals.take_published(tracked)
            overlay, capture = tail.overlay(), tail.position() or capture
            if missed and numbers is not None and overlay is not None:
                # one state of what may have been missed and what stands in the WAL by now
                numbers = sorted({*numbers, *overlay.numbers})
        try:
            differs = self.log_difference(
                tracked, numbers=numbers, overlay=overlay, capture=capture, quiet=quiet
            )
        except BaseException:
            if tail is not None:
                tail.doubt = missed
            raise
        if differs and wanted.unexpected and not missed:
            self._warn_of_change(tracked)

    def _done(self, tracked: Tracked) -> None:
        wanted, tracked.comparing = tracked.comparing, None
        tracked.looks = 0
        name, sequence = tracked.name, 0 if wanted is None else wanted.sequence

        def tell(errno: int) -> None:
            if not errno and sequence:
                self._explained(name, sequence)
            if not errno and wanted is not None and wanted.numbers is None:
                self._all_compared(tracked)

        self._group.after(tracked, tell)

    # --- both

    def log_difference(
        self,
        tracked: Tracked,
        *,
        numbers: Sequence[int] | None = None,
        overlay: Overlay | None = None,
        capture: Capture | None = None,
        quiet: Quiet | None = None,
        logged_from: int | None = None,
    ) -> bool:
        """Prepare a record of what differs between the file and the log; false if nothing does.

        `quiet`: nothing is made of it if somebody wrote meanwhile. `logged_from`: see `compare`.
        Raises FormatError when the file is no whole database, OSError.
        """
        if tracked.gone:
            raise StorageError(f"the log of {tracked.name} is closed")
        trusted = tracked.log.trusted
        with compare(
            self._path(tracked),
            tracked.log.page_checksum,
            known_size=(tracked.log.page_size, tracked.log.n_pages),
            numbers=numbers if trusted else None,
            overlay=overlay,
            everything=not trusted,
            beat=self._beat,
            logged_from=logged_from,
        ) as changed:
            pages: Iterable[tuple[int, bytes]] = changed.pages
            if quiet is not None and quiet.watch is not None:
                pages = self._read_undisturbed(quiet, changed)
            tracked.foreign = False
            differs = self._group.prepare(
                tracked, pages, changed.commit, changed.page_size, capture=capture
            )
        if not trusted or numbers is None:
            self._group.after(tracked, lambda errno: self._compared(tracked, errno))
        return differs

    def _read_undisturbed(self, quiet: Quiet, changed: Changed) -> Iterable[tuple[int, bytes]]:
        if quiet.locked:
            return self._one_by_one(quiet, changed)
        pages = []
        for page in changed.pages:
            pages.append(page)
            if len(pages) * changed.page_size > UNLOCKED_BYTES:
                quiet.tracked.looks = MOST_LOOKS  # with locks they are read one by one
                raise _DisturbedError
        if not quiet.still():
            raise _DisturbedError
        return pages

    def _one_by_one(self, quiet: Quiet, changed: Changed) -> Iterator[tuple[int, bytes]]:
        yield from changed.pages
        if not quiet.still():
            raise _DisturbedError

    def _path(self, tracked: Tracked) -> str:
        return str(self._layout.files / tracked.name)

    def _compared(self, tracked: Tracked, errno: int) -> None:
        """The whole database has been compared, and the difference is in the log."""
        if errno:
            return
        if not tracked.log.trusted and not tracked.log.pending_bytes:
            tracked.log.mark_trusted()
        tracked.mark_unlogged(False)
        self._all_compared(tracked)
