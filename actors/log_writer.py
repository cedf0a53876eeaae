"""The log writer actor: reads what SQLite has committed and appends it to the log.

Owns the transaction logs of a primary. It reads backing files, and through the mount only the WAL
index; it writes nothing that SQLite reads. Every turn of its loop collects commits, then appends
them as one group per database, then tells everyone who waits: the publisher, held calls, barriers.

Always true: a gate is opened only when everything published before it is in the log; messages of
the mount from before the last resynchronisation are dropped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable

from litemq import log
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout, application_file
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.actors.wal_watch import WalWatch
from litemq.config import Config
from litemq.errors import FormatError, LiteMQError, NotADatabaseError, StorageError
from litemq.fs.comparison import compare, is_database
from litemq.fs.journal import is_active
from litemq.fs.locks import SharedLock
from litemq.fs.names import Kind, classify
from litemq.fs.wal_tail import Overlay, WalTail
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all

NAME = "log_writer"
HEARTBEAT_S = 0.25
#: the log reaches the disk this often; until then SQLite's own files are the durable copy
SYNC_S = 1.0
#: how long commits are gathered into one group after one has been taken
GATHER_S = 0.001
RETENTION_S = 5.0
#: prepared bytes of one database above which the turn appends before it goes on
GROUP_BYTES = 4 * 1024 * 1024
ACK_S = 0.05
STALLED_RETRY_S = 0.5
SHARED_LOCK_RETRY_S = 0.005
#: when a file in the mount can't be opened yet
REOPEN_S = 0.001


class LogWriter:
    """Collect, append, tell."""

    def __init__(self, config: Config, *, epoch: int) -> None:
        self._config = config
        self._epoch = epoch
        self._layout = Layout(config.node.data_dir)
        self._log = log.get()
        endpoints = Endpoints(config.run_dir)
        self._reactor = Reactor()
        self._inbox = Receiver.bind(endpoints.capture, on_garbage=self._garbage)
        self._to_fuse = Sender(endpoints.gates)
        self._to_publisher = Sender(endpoints.records)
        self._to_supervisor = Sender(endpoints.control)
        self._tracked: dict[str, Tracked] = {}
        self._token = ""
        self._synced = False
        self._mounted = False
        self._incarnation = 0
        self._ready = False
        self._dirty: dict[str, Tracked] = {}
        self._after_flush: list[tuple[Tracked | None, Callable[[int], None]]] = []
        self._acknowledge = 0
        self._barriers: dict[int, m.Barrier] = {}
        self._stalled_errno = 0
        self._watch = WalWatch()
        self._helper = HelperThread()

    # --- life

    def run(self) -> int:
        reactor = self._reactor
        self._layout.create()
        for directory in sorted(self._layout.databases.iterdir()):
            self._track(directory.name)
        reactor.on_message(self._inbox, self._handle)
        reactor.on_readable(self._watch.fd, self._wal_written)
        reactor.on_readable(self._helper.fd, self._helper.collect)
        reactor.after_events(self._flush)
        reactor.every(HEARTBEAT_S, self._alive)
        reactor.every(HEARTBEAT_S, self._ask_again)
        reactor.every(SYNC_S, self._sync)
        reactor.later(RETENTION_S, self._retain)
        reactor.later(ACK_S, self._send_acks)
        self._announce_heads()
        self._ask_for_resync()
        reactor.run()
        self._flush()
        for tracked in self._tracked.values():
            with contextlib.suppress(LiteMQError):
                tracked.log.close(clean=not self._stalled_errno)
        close_all()
        return 0

    def _alive(self) -> None:
        databases = [
            m.DatabaseStatus(
                name=each.name,
                txid=each.log.head.txid,
                checksum=f"{each.log.head.checksum:016x}",
                epoch=each.log.head.epoch,
                page_size=each.log.page_size,
                pages=each.log.n_pages,
                lag_ms=0,
                state="stalled" if self._stalled_errno else "ok",
            )
            for each in self._tracked.values()
            if each.log.n_pages
        ]
        self._to_supervisor.send(
            m.ActorAlive(
                NAME, os.getpid(), ready=self._ready, epoch=self._epoch, databases=databases
            )
        )

    def _garbage(self, reason: str, count: int) -> None:
        self._log.warning("dropped a strange message", reason=reason, count=count)

    def _track(self, name: str) -> Tracked:
        tracked = self._tracked.get(name)
        if tracked is None:
            tracked = self._tracked[name] = Tracked.open(
                name, self._layout, self._config.retention.segment_bytes
            )
            if tracked.log.torn_bytes:
                self._log.warning(
                    "cut a torn tail off the log", db=name, bytes=tracked.log.torn_bytes
                )
        return tracked

    # --- messages

    def _handle(self, message: m.Message, payload: list[bytes]) -> None:
        try:
            self._dispatch(message, payload)
        except StorageError as error:
            # A log that can't even be opened. The mount keeps what it has handed over: start over.
            self._stall(error)
            self._synced = False
            self._reactor.later(STALLED_RETRY_S, self._ask_for_resync)

    def _dispatch(self, message: m.Message, payload: list[bytes]) -> None:
        match message:
            case m.CaptureStarted(incarnation=incarnation):
                if incarnation != self._incarnation:
                    self._incarnation = incarnation
                    self._ask_for_resync()
                elif self._mounted and self._synced:
                    self._to_fuse.send(m.CaptureReady(self._token))
            case m.ResyncCapture(token=token) if token == self._token and not self._synced:
                self._resync(message)
            case m.PublisherStarted():
                self._announce_heads()
            case m.Barrier():
                self._barrier(message)
            case m.CommitPages() if self._synced:
                self._commit_pages(message, payload)
            case m.CommitFile() if self._synced:
                self._commit_file(message)
            case m.WalGate() if self._synced:
                self._wal_gate(message)
            case m.WalOpened(database=name) if self._synced:
                self._open_wal(self._track(name))
            case m.ShmOpened(database=name) if self._synced:
                self._open_shm(self._track(name))
            case m.ShmRemoved(database=name) if self._synced:
                tracked = self._track(name)
                tracked.shm_serial += 1
                if tracked.wal is not None:
                    tracked.wal.close_index()
            case m.WalRemoved(database=name) if self._synced:
                self._close_wal(self._track(name))
            case m.WalRewritten(database=name) if self._synced:
                self._compare(self._track(name), sequence=0, numbers=None)
            case m.UnexplainedWrites(sequence=sequence, database=name) if self._synced:
                numbers = None if message.everything else message.numbers
                self._compare(self._track(name), sequence=sequence, numbers=numbers)
            case m.DatabaseRemoved(database=name) if self._synced:
                self._removed(name)
            case m.CaptureEcho(token=number):
                self._barrier_reached(number)
            case _:
                pass  # from before the resynchronisation; it is sent again

    def _ask_for_resync(self) -> None:
        """Ask the mount to start over with us; again until it answers, for a message may be lost
        with the process that it was sent to.
        """
        self._token = secrets.token_hex(8)
        self._synced = False
        self._to_fuse.send(m.LogWriterStarted(self._token))

    def _ask_again(self) -> None:
        if not self._synced:
            self._to_fuse.send(m.LogWriterStarted(self._token))

    def _resync(self, message: m.ResyncCapture) -> None:
        self._synced = True
        self._mounted = message.mounted
        self._incarnation = message.incarnation
        for tracked in self._tracked.values():
            tracked.shm_serial += 1
            self._close_wal(tracked)
        if not message.mounted:
            self._recover(unclean=message.unclean)
        for name in message.wals:
            self._open_wal(self._track(name))
        if message.mounted:
            self._rejoin(message)
        for number in self._barriers:
            self._to_fuse.send(m.EchoCapture(number))
        self._after_flush.append((None, self._report_ready))

    def _report_ready(self, errno: int) -> None:
        if errno:
            self._after_flush.append((None, self._report_ready))
            return
        self._to_fuse.send(m.CaptureReady(self._token))
        self._mounted = True
        if not self._ready:
            self._ready = True
            self._alive()
            self._log.info("capturing", databases=len(self._tracked), epoch=self._epoch)

    def _rejoin(self, message: m.ResyncCapture) -> None:
        """The mount went on while this actor was away.

        Open its WAL indexes, look for what is gone.
        """
        for name in message.shms:
            self._open_shm(self._track(name))
        for tracked in list(self._tracked.values()):
            if tracked.log.n_pages and not os.path.exists(self._layout.files / tracked.name):
                self._removed(tracked.name)
            elif not tracked.log.trusted:
                self._compare(tracked, sequence=0, numbers=None)

    # --- start of a mount: nobody has a file open, so the files alone tell what is committed

    def _recover(self, *, unclean: bool) -> None:
        present = set()
        for entry in sorted(os.scandir(self._layout.files), key=lambda each: each.name):
            if classify(entry.name)[0] is Kind.DATABASE and entry.is_file():
                present.add(entry.name)
                self._recover_database(entry.name, unclean=unclean)
        for tracked in self._tracked.values():
            if tracked.log.n_pages and tracked.name not in present:
                self._log.warning("the database file is gone; dropped", db=tracked.name)
                self._drop(tracked)

    def _recover_database(self, name: str, *, unclean: bool) -> None:
        path = self._layout.files / name
        if name not in self._tracked and not is_database(path):
            return
        try:
            tracked = self._track(name)
            tail = WalTail(f"{path}-wal", tracked.resume_point)
            forgotten = False
            if tail.open():
                self._take_commits(tracked, tail, chain=True)
                forgotten = tail.forget_what_recovery_forgets()
            if forgotten or unclean or not tracked.log.trusted or not tracked.log.n_pages:
                self._compare_at_rest(tracked, tail)
            tail.close()
        except FormatError as error:
            self._log.error("can't read the database; not replicated", db=name, reason=str(error))

    def _compare_at_rest(self, tracked: Tracked, tail: WalTail) -> None:
        path = self._layout.files / tracked.name
        journal = f"{path}-journal"
        if _journal_active(journal):
            return  # mid-transaction; when the journal ends, the mount has everything compared
        if os.path.getsize(path) == 0:
            self._drop(tracked)
            return
        if self._log_difference(tracked, overlay=tail.overlay(), wal=tail.position()):
            self._log.warning(
                "the database had changed without its log; logged as one transaction",
                db=tracked.name,
                txid=tracked.log.head.txid,
            )

    # --- WAL

    def _open_wal(self, tracked: Tracked) -> None:
        if tracked.wal is None:
            tracked.wal = WalTail(
                str(self._layout.files / f"{tracked.name}-wal"), tracked.resume_point
            )
        if tracked.wal.open():
            self._watch.add(tracked.wal.path, tracked.name)
            self._collect(tracked)

    def _close_wal(self, tracked: Tracked) -> None:
        if tracked.wal is not None:
            self._watch.remove(tracked.name)
            tracked.wal.close()
            tracked.wal = None

    def _open_shm(self, tracked: Tracked) -> None:
        """Open the WAL index in the mount, in the helper thread.

        The directory may be held by a call that waits for us.
        """
        path = f"{application_file(self._config, tracked.name)}-shm"
        tracked.shm_serial += 1
        serial = tracked.shm_serial

        def opened(fd: int | None) -> None:
            tail = tracked.wal
            if serial != tracked.shm_serial:
                if fd is not None:
                    _close(fd)
                return
            if fd is None:
                # We heard of it before the kernel did: it still knows that there is no such file.
                if os.path.exists(f"{self._layout.files / tracked.name}-shm"):
                    self._reactor.later(REOPEN_S, open_again)
                return
            if tail is None:
                tail = tracked.wal = WalTail(
                    str(self._layout.files / f"{tracked.name}-wal"), tracked.resume_point
                )
            tail.use_index(fd)
            self._collect(tracked)

        def open_again() -> None:
            if serial == tracked.shm_serial:
                self._helper.open_file(path, opened, writing=True)

        open_again()

    def _wal_written(self) -> None:
        for name in self._watch.written():
            tracked = self._tracked.get(name)
            if tracked is not None:
                self._collect(tracked)
        # Under load, commits of the next moment make one group: fewer wake-ups for everyone behind.
        self._reactor.rest(self._watch.fd, GATHER_S)

    def _collect(self, tracked: Tracked) -> None:
        """Take what is published; if frames are written but not published yet, look again soon."""
        tail = tracked.wal
        if tail is None:
            return
        taken = self._take_commits(tracked, tail, chain=tail.exclusive)
        if not tail.unpublished:
            tracked.look_again = 0
            return
        tracked.look_again = 0 if taken else tracked.look_again + 1
        if 1 <= tracked.look_again <= 3:
            # publication follows the last write by some µs; a timer would take a millisecond
            time.sleep(20e-6 * tracked.look_again)
        if not tracked.look_scheduled:
            tracked.look_scheduled = True
            self._reactor.later(_pause_s(tracked.look_again), lambda: self._look(tracked))

    def _look(self, tracked: Tracked) -> None:
        tracked.look_scheduled = False
        self._collect(tracked)

    def _take_commits(
        self, tracked: Tracked, tail: WalTail, *, chain: bool, blank_up_to: int = 0
    ) -> bool:
        any_taken = False
        try:
            commits = tail.collect(chain=chain, blank_up_to=blank_up_to)
            if tail.rewound:
                tail.rewound = False
                self._log.warning("SQLite's recovery lost committed frames", db=tracked.name)
                self._compare(tracked, sequence=0, numbers=None)
            while commits:
                for commit in commits:
                    wal = (*commit.salts, commit.offset, commit.size)
                    self._prepare(tracked, commit.pages, commit.n_pages, commit.page_size, wal=wal)
                    any_taken = True
                if tracked.log.pending_bytes > GROUP_BYTES:
                    self._flush_one(tracked)
                commits = tail.collect(chain=chain, blank_up_to=blank_up_to)
        except OSError as error:
            # the mount is gone (it comes back with a resynchronisation), or the file can't be read
            self._log.warning("can't read the WAL", db=tracked.name, reason=str(error))
            tail.close_index()
        return any_taken

    def _wal_gate(self, message: m.WalGate) -> None:
        tracked = self._track(message.database)
        if tracked.wal is None:
            self._open_wal(tracked)
        tail = tracked.wal
        if tail is not None:
            # Whoever checkpoints has committed: also frames that only its own index vouches for.
            self._take_commits(tracked, tail, chain=not tail.has_index, blank_up_to=message.wal_end)
            if tail.restarting:
                self._take_commits(tracked, tail, chain=True, blank_up_to=message.wal_end)
        captured_end = 0 if tail is None else tail.captured_end
        gate = message.gate

        def verdict(errno: int) -> None:
            self._verdict(gate, errno, captured_end)

        self._after_flush.append((tracked, verdict))

    def _verdict(self, gate: int, errno: int, captured_end: int) -> None:
        if errno:
            self._to_fuse.send(m.RefuseGate(gate, errno))
        else:
            self._to_fuse.send(m.OpenGate(gate, captured_end))

    # --- rollback journals

    def _commit_pages(self, message: m.CommitPages, payload: list[bytes]) -> None:
        tracked = self._track(message.database)
        if not self._seen(tracked, message.sequence):
            size, data = message.page_size, payload[0] if payload else b""
            pages = [
                (number, data[at * size : (at + 1) * size])
                for at, number in enumerate(message.numbers)
            ]
            wal = (0, 0, message.sequence, self._incarnation)
            try:
                self._prepare(tracked, pages, message.pages, size, wal=wal)
            except ValueError:
                # a database whose log starts here, or whose page checksums were lost: all pages are
                # needed
                self._compare(tracked, sequence=0, numbers=None)
        self._acknowledge = max(self._acknowledge, message.sequence)

    def _commit_file(self, message: m.CommitFile) -> None:
        tracked = self._track(message.database)
        if not self._seen(tracked, message.sequence):
            numbers = None if message.everything else message.numbers
            wal = (0, 0, message.sequence, self._incarnation)
            try:
                self._log_difference(tracked, numbers=numbers, wal=wal)
            except (FormatError, OSError, ValueError) as error:
                self._log.error("can't read a commit", db=message.database, reason=str(error))
        gate = message.gate
        self._after_flush.append((tracked, lambda errno: self._verdict(gate, errno, 0)))

    def _seen(self, tracked: Tracked, sequence: int) -> bool:
        """Whether that commit is in the log already.

        It was sent again because the acknowledgement was lost.
        """
        header = tracked.log.last_header
        return (
            header is not None
            and header.wal_salt1 == 0
            and header.wal_salt2 == 0
            and header.wal_size == self._incarnation
            and header.wal_offset >= sequence
        )

    def _send_acks(self) -> None:
        self._reactor.later(ACK_S, self._send_acks)
        if self._acknowledge and not self._stalled_errno:
            self._to_fuse.send(m.PagesLogged(self._acknowledge))
            self._acknowledge = 0

    # --- everything else: compare the file with the log under SQLite's SHARED lock

    def _compare(self, tracked: Tracked, *, sequence: int, numbers: list[int] | None) -> None:
        tracked.compare_later(sequence, numbers)
        self._try_compare(tracked)

    def _try_compare(self, tracked: Tracked) -> None:
        if tracked.comparing is None or tracked.opening:
            return
        tracked.opening = True

        def opened(fd: int | None) -> None:
            tracked.opening = False
            if tracked.comparing is None:
                if fd is not None:
                    _close(fd)
                return
            if fd is None:
                if os.path.exists(self._layout.files / tracked.name):
                    self._reactor.later(REOPEN_S, lambda: self._try_compare(tracked))
                else:
                    tracked.comparing = None  # unlinked meanwhile
                return
            try:
                done = self._compare_locked(tracked, fd)
            finally:
                _close(fd)  # an OFD lock goes with its descriptor
            if not done:
                self._reactor.later(SHARED_LOCK_RETRY_S, lambda: self._try_compare(tracked))

        self._helper.open_file(str(application_file(self._config, tracked.name)), opened)

    def _compare_locked(self, tracked: Tracked, fd: int) -> bool:
        """Compare now if no writer is in the middle of a transaction.

        True when done with it for good.
        """
        wanted = tracked.comparing
        path = self._layout.files / tracked.name
        journal = f"{path}-journal"
        if wanted is None or not SharedLock(fd).take():
            return False
        if _journal_active(journal):
            return False
        tail = tracked.wal
        locks = None if tail is None else tail.lock_writers()
        if tail is not None and locks is None:
            return False
        overlay = None
        resume = tracked.last_capture
        try:
            if tail is not None:
                self._take_commits(tracked, tail, chain=tail.exclusive)
                overlay, resume = tail.overlay(), tail.position() or resume
            self._log_difference(tracked, numbers=wanted.numbers, overlay=overlay, wal=resume)
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
        tracked.comparing = None
        name, sequence = tracked.name, wanted.sequence

        def explained(errno: int) -> None:
            if not errno and sequence:
                self._to_fuse.send(m.WritesExplained(sequence, name))

        self._after_flush.append((tracked, explained))
        return True

    def _removed(self, name: str) -> None:
        tracked = self._tracked.get(name)
        if tracked is None:
            return
        tracked.comparing = None
        self._drop(tracked)
        self._log.info("database dropped", db=name, txid=tracked.log.head.txid)

    def _drop(self, tracked: Tracked) -> None:
        if tracked.log.drop(self._epoch, _now_ms()) is not None:
            self._dirty[tracked.name] = tracked

    def _log_difference(
        self,
        tracked: Tracked,
        *,
        numbers: list[int] | None = None,
        overlay: Overlay | None = None,
        wal: tuple[int, int, int, int] | None = None,
    ) -> bool:
        """Prepare a record of what differs between the file and the log; false if nothing does."""
        changed = compare(
            self._layout.files / tracked.name,
            tracked.log.page_checksum,
            numbers=numbers if tracked.log.trusted else None,
            overlay=overlay,
            everything=not tracked.log.trusted,
            beat=self._alive,
        )
        if not tracked.log.trusted:
            self._after_flush.append((tracked, lambda errno: self._compared(tracked, errno)))
        return self._prepare(tracked, changed.pages, changed.commit, changed.page_size, wal=wal)

    def _compared(self, tracked: Tracked, errno: int) -> None:
        """The whole database has been compared, and the difference is in the log."""
        if not errno and not tracked.log.pending_bytes:
            tracked.log.mark_trusted()

    # --- append and tell

    def _prepare(
        self,
        tracked: Tracked,
        pages: list[tuple[int, bytes]],
        commit: int,
        page_size: int,
        *,
        wal: tuple[int, int, int, int] | None = None,
    ) -> bool:
        record = tracked.log.prepare(
            self._epoch,
            pages,
            commit=commit,
            page_size=page_size,
            timestamp_ms=_now_ms(),
            wal=wal,
        )
        if record is None:
            return False
        self._dirty[tracked.name] = tracked
        return True

    def _flush(self) -> bool:
        if not self._dirty and not self._after_flush:
            return False
        errno = 0
        for tracked in list(self._dirty.values()):
            errno = self._flush_one(tracked) or errno
        waiting, self._after_flush = self._after_flush, []
        for tracked_or_none, call in waiting:
            unwritten = tracked_or_none is None or tracked_or_none.name in self._dirty
            call(errno if errno and unwritten else 0)
        return False

    def _flush_one(self, tracked: Tracked) -> int:
        try:
            records = tracked.log.flush()
        except StorageError as error:
            self._stall(error)
            return self._stalled_errno
        del self._dirty[tracked.name]
        if self._stalled_errno and not self._dirty:
            self._unstall()
        self._tell(tracked, records)
        return 0

    def _tell(self, tracked: Tracked, records: list[bytes]) -> None:
        if tracked.log.n_pages:
            tracked.position.show(tracked.log.head)
        else:
            tracked.position.hide()
        if not records:
            return
        tracked.unsynced = True
        lengths = [len(record) for record in records]
        first = tracked.log.head.txid - len(records) + 1
        payload = [b"".join(records)] if sum(lengths) <= self._config.stream.inline_bytes else []
        self._to_publisher.send(m.RecordsLogged(tracked.wire_head, first, lengths), *payload)

    def _announce_heads(self) -> None:
        heads = [tracked.wire_head for tracked in self._tracked.values() if tracked.log.head.txid]
        self._to_publisher.send(m.DatabaseHeads(heads))
        for tracked in self._tracked.values():
            self._tell(tracked, [])

    def _stall(self, error: StorageError) -> None:
        errno = error.errno or 28
        if not self._stalled_errno:
            self._log.error("can't append to the log; writes are refused", reason=str(error))
            self._reactor.later(STALLED_RETRY_S, self._retry)
        self._stalled_errno = errno
        self._to_fuse.send(m.LogStalled(errno))

    def _retry(self) -> None:
        if self._stalled_errno:
            self._flush()
        if self._stalled_errno and self._synced and not self._dirty:
            self._unstall()
        if self._stalled_errno:
            self._to_fuse.send(m.LogStalled(self._stalled_errno))
            self._reactor.later(STALLED_RETRY_S, self._retry)

    def _unstall(self) -> None:
        self._stalled_errno = 0
        self._to_fuse.send(m.LogStalled(0))
        self._log.info("the log can be appended to again")

    def _sync(self) -> None:
        for tracked in self._tracked.values():
            if tracked.unsynced:
                tracked.unsynced = False
                self._helper.run(tracked.log.sync)

    def _retain(self) -> None:
        self._reactor.later(RETENTION_S, self._retain)
        keep = self._config.retention
        for tracked in self._tracked.values():
            try:
                deleted = tracked.log.enforce_retention(time.time(), keep.max_age_s, keep.max_bytes)
            except StorageError as error:
                self._log.warning("can't delete old log segments", reason=str(error))
                return
            if deleted:
                self._log.info("deleted old log segments", db=tracked.name, segments=deleted)

    # --- barriers

    def _barrier(self, message: m.Barrier) -> None:
        if not self._mounted or not self._synced:
            self._answer_barrier(message)
            return
        number = secrets.randbits(62)
        self._barriers[number] = message
        self._to_fuse.send(m.EchoCapture(number))

    def _barrier_reached(self, number: int) -> None:
        message = self._barriers.pop(number, None)
        if message is None:
            return
        for tracked in self._tracked.values():
            if tracked.wal is not None:
                self._take_commits(tracked, tracked.wal, chain=tracked.wal.exclusive)
        self._answer_barrier(message)

    def _answer_barrier(self, message: m.Barrier) -> None:
        def answer(_errno: int) -> None:
            heads = [
                tracked.wire_head
                for tracked in self._tracked.values()
                if tracked.log.head.txid and message.database in ("", tracked.name)
            ]
            reply = Sender(message.reply_to)
            reply.send(m.BarrierReached(message.request, heads))
            reply.close()

        self._after_flush.append((None, answer))


def _close(fd: int) -> None:
    """Close a descriptor of the mount; ENOTCONN when the mount has died."""
    with contextlib.suppress(OSError):
        os.close(fd)


def _journal_active(path: str) -> bool:
    try:
        with open(path, "rb") as journal:
            return is_active(journal.read(1))
    except FileNotFoundError:
        return False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _pause_s(looks: int) -> float:
    """How long to wait before looking again at frames that are written but not published."""
    if 1 <= looks <= 3:
        return 0.0
    if looks <= 50:
        return GATHER_S
    return 0.01 if looks <= 200 else 0.1


def main(config: Config, *, epoch: int) -> int:
    """Entry of the actor's process."""
    return LogWriter(config, epoch=epoch).run()
