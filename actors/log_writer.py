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
from functools import partial

from litemq import log
from litemq.actors import heap, steady_clock
from litemq.actors.barriers import Barriers
from litemq.actors.cached_writes import CachedWrites
from litemq.actors.failing import FILE_ERRORS, of_the_disk
from litemq.actors.failing_logs import FailingLogs
from litemq.actors.file_capture import FileCapture
from litemq.actors.file_check import FileCheck
from litemq.actors.group_commit import STALLED_RETRY_S, GroupCommit
from litemq.actors.helper_thread import HelperThread
from litemq.actors.journal_capture import JournalCapture
from litemq.actors.layout import Layout, application_file, is_there
from litemq.actors.log_sync import sync_log
from litemq.actors.meeting import Meeting
from litemq.actors.reactor import Reactor
from litemq.actors.stopped_programs import StoppedPrograms
from litemq.actors.tracked import Tracked
from litemq.actors.unlogged_names import UnloggedNames
from litemq.actors.wal_capture import WalCapture
from litemq.actors.withheld import Withheld
from litemq.config import Config
from litemq.errors import BehindLogError, StorageError
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all
from litemq.txlog.new_start import LARGEST_RECORD_BYTES

NAME = "log_writer"
HEARTBEAT_S = 0.25
#: the log reaches the disk this often; until then SQLite's own files are the durable copy
SYNC_S = 1.0
RETENTION_S = 5.0


class LogWriter:
    """Hears of the mount, has commits captured, answers who waits for the log."""

    def __init__(self, config: Config, *, epoch: int) -> None:
        self._config = config
        self._epoch = epoch
        self._layout = Layout(config.node.data_dir)
        self._log = log.get()
        self._endpoints = endpoints = Endpoints(config.run_dir)
        self._to_fuse = Sender(endpoints.gates)
        self._to_supervisor = Sender(endpoints.control)
        self._reactor = Reactor()
        self._helper = HelperThread()
        self._group = GroupCommit(
            self._reactor,
            self._to_fuse,
            Sender(endpoints.records),
            epoch=epoch,
            inline_bytes=config.stream.inline_bytes,
            failed=self._failed,
        )
        self._cached = None
        if config.caches_writes:
            self._cached = CachedWrites(
                self._reactor,
                self._helper,
                self._layout,
                mount_path=self._mount_path,
                ask_report=self._ask_report,
                has_wal=self._has_wal,
            )
        self._wals = WalCapture(
            self._group,
            self._reactor,
            self._helper,
            self._layout,
            mount_path=self._mount_path,
            on_rewound=lambda tracked: self._files.request(tracked, numbers=None),
            on_doubt=lambda tracked: self._files.request(tracked, numbers=[]),
            on_left_behind=lambda tracked, numbers: self._check.prove(tracked, numbers),
            look=lambda tracked: self._files.look(tracked),
            beat=self._beat,
            broken=self._failed,
            cached=self._cached,
            backlog_bytes=max(config.retention.max_bytes, LARGEST_RECORD_BYTES),
        )
        self._files = FileCapture(
            self._group,
            self._wals,
            self._reactor,
            self._helper,
            self._layout,
            mount_path=self._mount_path,
            explained=lambda name, number: self._to_fuse.send(m.WritesExplained(number, name)),
            ask_report=self._ask_report,
            beat=self._beat,
            compared=lambda tracked: self._failing.compared(tracked),
            broken=self._failed,
            cached=config.caches_writes,
        )
        self._check = FileCheck(
            self._reactor,
            self._layout,
            every_s=config.verify.every_s,
            compare=lambda tracked, numbers: self._files.request(
                tracked, numbers=numbers, unexpected=True
            ),
        )
        self._tracked: dict[str, Tracked] = {}
        self._journals = JournalCapture(
            self._group, self._files, self._reactor, self._to_fuse, verdict=self._verdict
        )
        self._stopped = StoppedPrograms(
            self._reactor, self._helper, self._tracked, mount_path=self._mount_path
        )
        self._token = ""
        self._mounted = False
        self._incarnation = 0
        self._ready = False
        self._barriers = Barriers(
            self._group,
            self._reactor,
            self._tracked,
            mounted=lambda: self._mounted,
            ask_report=self._ask_behind_everything,
            look=self._files.look,
            take_published=self._wals.take_published,
        )
        #: the node stops, and nobody may commit to a cached WAL any more
        self._sealing = False
        #: the node goes on, and an applier with the log
        self._succeeded = False
        self._beat_s = 0.0

    # --- life

    def run(self) -> int:
        reactor = self._reactor
        # only now: until then the address may be an applier's
        inbox = Receiver.bind(self._endpoints.capture, on_garbage=log.strange_message)
        self._layout.create()
        self._begin_failing()
        try:
            self._open_logs()
        except StorageError as error:
            self._group.stall(error)  # they are opened when we agree with the mount
        reactor.on_message(inbox, self._handle)
        reactor.on_readable(self._helper.fd, self._helper.collect)
        reactor.after_events(self._group.flush)
        reactor.every(HEARTBEAT_S, self._alive)
        reactor.every(HEARTBEAT_S, self._ask_again)
        reactor.every(SYNC_S, self._sync)
        reactor.later(RETENTION_S, self._retain)
        self._stopped.begin()
        self._journals.begin()
        self._group.announce(self._tracked.values())
        self._ask_for_resync()
        reactor.run()
        if self._sealing:
            self._look_last()  # at those who were in the middle of a transaction
        settled = []
        for tracked in list(self._tracked.values()):
            with contextlib.suppress(*FILE_ERRORS):  # compared by whoever comes next
                if self._files.settle(tracked, fenced=self._succeeded):
                    settled.append(tracked)
        self._group.flush()
        for tracked in self._tracked.values():
            with contextlib.suppress(*FILE_ERRORS):
                if tracked in settled and not self._group.stalled_errno:
                    self._files.hand_back(tracked)
                if self._succeeded:  # what is synced by a clean end is not needed on the disk now
                    tracked.log.save_state()
                tracked.log.close(clean=not (self._succeeded or self._group.stalled_errno))
        close_all()
        return 0

    def _alive(self) -> None:
        state = "stalled" if self._group.stalled_errno else "ok"
        self._to_supervisor.send(
            m.ActorAlive(
                NAME,
                os.getpid(),
                ready=self._ready,
                epoch=self._epoch,
                databases=[
                    *(t.status(state) for t in self._tracked.values() if _is_shown(t)),
                    *self._failing.status(),
                ],
            )
        )

    def _beat(self) -> None:
        """A sign of life from within long work."""
        now = time.monotonic()
        if now - self._beat_s >= HEARTBEAT_S:
            self._beat_s = now
            self._alive()

    def _mount_path(self, name: str) -> str:
        return str(application_file(self._config, name))

    def _ask_report(self, token: int, name: str = "") -> None:
        self._to_fuse.send(m.EchoCapture(token, name))

    def _has_wal(self, name: str) -> bool:
        tracked = self._tracked.get(name)
        return tracked is not None and tracked.wal is not None

    def _begin_failing(self) -> None:
        self._unlogged = UnloggedNames(self._layout.unlogged, self._layout.database_names())
        self._withheld = Withheld(
            self._to_fuse,
            self._unlogged,
            self._layout.database_names(),
            cached=self._config.caches_writes,
        )
        self._failing = FailingLogs(
            self._reactor,
            self._tracked,
            self._unlogged,
            self._withheld,
            let_go=self._let_go,
            try_again=self._try_again,
            verdict=self._verdict,
            agreed=lambda: self._group.agreed and self._mounted,
        )

        self._meeting = Meeting(
            self._group,
            self._wals,
            self._files,
            self._layout,
            self._tracked,
            self._unlogged,
            self._withheld,
            track=self._track,
            contained=self._contained,
            removed=self._removed,
        )

    def _contained(self, name: str, call: Callable[[], object]) -> None:
        """What fails in it is a matter of that database, unless the disk itself refuses
        (StorageError).
        """
        if name in self._failing:
            return
        begun_s = time.monotonic()
        try:
            call()
        except FILE_ERRORS as error:
            behind = isinstance(error, BehindLogError)
            if behind and name not in self._withheld:  # readers have it: no role for this node
                raise
            if isinstance(error, StorageError) and of_the_disk(error) and not behind:
                raise
            self._failing.failed(name, error, time.monotonic() - begun_s)

    def _failed(self, name: str, error: BaseException) -> None:
        self._failing.failed(name, error)

    def _let_go(self, tracked: Tracked) -> None:
        self._wals.close(tracked)
        self._group.forget(tracked)
        tracked.close()

    def _try_again(self, name: str, sequence: int) -> None:
        """Open a log that failed, and have all of its database compared. Raises FILE_ERRORS."""
        if name in self._withheld:
            self._bring_back(name, sequence)
            return
        tracked = Tracked.open(name, self._layout, self._config.retention.segment_bytes)
        self._tracked[name] = tracked
        self._failing.found(name, tracked)
        file = self._layout.files / name
        if not is_there(file):
            self._removed(name)
            self._group.after(
                tracked, lambda errno: None if errno else self._failing.compared(tracked)
            )
            return
        self._files.request(tracked, sequence=sequence, numbers=None)
        if os.path.exists(f"{file}-wal"):
            self._wals.open(tracked, made=False, doubt=True)
        if os.path.exists(f"{file}-shm"):
            self._wals.open_index(tracked)
        self._group.announce([tracked])

    def _bring_back(self, name: str, sequence: int) -> None:
        """The same of one that nobody has open. Raises FILE_ERRORS."""
        tracked = self._track(name)
        self._failing.found(name, tracked)
        self._meeting.bring_back(name)
        self._withheld.tell()
        self._after(tracked, lambda: self._failing.compared(tracked))
        if sequence:
            self._after(tracked, lambda: self._to_fuse.send(m.WritesExplained(sequence, name)))
        if os.path.exists(f"{self._layout.files / name}-wal"):
            self._wals.open(tracked, made=False)
        self._group.announce([tracked])

    def _after(self, tracked: Tracked, call: Callable[[], object]) -> None:
        """Call when all that is prepared of it is in the log; not if that is closed before."""

        def told(errno: int) -> None:
            if not errno:
                call()
            elif not tracked.gone:
                self._reactor.later(STALLED_RETRY_S, lambda: self._after(tracked, call))

        self._group.after(tracked, told)

    def _open_logs(self) -> bool:
        """Open the logs that are not open yet; whether there were any. Raises StorageError."""
        known = len(self._tracked)
        for name in self._layout.database_names():
            self._contained(name, partial(self._track, name))
            self._beat()
        return len(self._tracked) > known

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
            if not self._for_everyone(message) and self._group.agreed:
                name = getattr(message, "database", "")
                if not name:
                    self._from_mount(message, payload)
                    return
                self._contained(name, lambda: self._from_mount(message, payload))
                if name in self._failing:
                    self._let_through(name, message)
        except StorageError as error:
            # A log that can't even be opened. The mount keeps what it has handed over: start over.
            self._group.stall(error)
            self._group.agreed = False
            self._reactor.later(STALLED_RETRY_S, self._ask_for_resync)

    def _for_everyone(self, message: m.Message) -> bool:
        """What is handled at any time; false if the message is none of these."""
        match message:
            case m.CaptureStarted(incarnation=incarnation):
                if incarnation != self._incarnation:
                    self._incarnation = incarnation
                    self._ask_for_resync()
                elif self._mounted and self._group.agreed:
                    self._to_fuse.send(m.CaptureReady(self._token))
            case m.ResyncCapture(token=token):
                if token == self._token and not self._group.agreed:
                    self._resync(message)
            case m.PublisherStarted():
                self._group.announce(self._tracked.values())
            case m.Barrier():
                self._barriers.ask(message)
            case m.CompleteLog(primary=primary):
                if not primary:  # else it was meant for the applier before us
                    self._succeeded = True
                    self._barriers.ask(message)
            case m.Follow():
                pass  # as that: still on its way when the applier ended
            case m.CaptureEcho(token=number, being_written=being_written):
                self._reported(number, being_written=being_written)
            case _:
                return False
        return True

    def _from_mount(self, message: m.Message, payload: list[bytes]) -> None:
        """What happened in the mount since we agreed on how things stand.

        Before that it is dropped: the mount sends it again.
        """
        match message:
            case m.CommitPages():
                self._journals.pages(self._track(message.database), message, payload)
            case m.CommitFile():
                self._journals.file(self._track(message.database), message)
            case m.WalGate(gate=gate, database=name, wal_end=wal_end):
                self._wals.gate(
                    self._track(name),
                    wal_end,
                    lambda errno, end, proven: self._verdict(gate, errno, end, proven=proven),
                )
            case m.WalOpened(database=name):
                self._wals.open(self._track(name))
            case m.WalRemoved(database=name):
                self._wals.close(self._track(name))
            case m.DatabaseOpened(database=name):
                if self._cached is not None:
                    self._cached.opened(name)
            case m.DatabaseClosed(database=name):
                if self._cached is not None:
                    self._cached.closed(name)
            case m.SealDatabases():
                self._sealing = True
                self._look_last()
            case m.ShmOpened(database=name):
                self._wals.open_index(self._track(name))
            case m.ShmRemoved(database=name):
                self._wals.close_index(self._track(name))
            case m.UnexplainedWrites(sequence=sequence, database=name):
                numbers = None if message.everything else message.numbers
                self._files.request(self._track(name), sequence=sequence, numbers=numbers)
            case m.ProveWrites():
                self._prove(message)
            case m.DatabaseRemoved(database=name):
                self._removed(name)
            case _:
                log.strange_message(f"{type(message).__name__} is not for the log writer", 1)

    def _let_through(self, name: str, message: m.Message) -> None:
        """Its log can't be written: it is compared when that has changed."""
        if isinstance(message, m.CommitPages):
            self._journals.seen(message)
        self._failing.answer(name, message)

    # --- agreeing with the mount on how things stand

    def _ask_for_resync(self) -> None:
        """Ask the mount to start over with us.

        Again until it answers: a message may be lost with the process it was sent to.
        """
        self._token = secrets.token_hex(8)
        self._group.agreed = False
        self._to_fuse.send(m.LogWriterStarted(self._token))

    def _ask_again(self) -> None:
        if not self._group.agreed:
            self._to_fuse.send(m.LogWriterStarted(self._token))

    def _resync(self, message: m.ResyncCapture) -> None:
        if self._open_logs():
            self._group.announce(self._tracked.values())
        self._withheld.agree(message, self._layout.database_names())
        self._failing.agreed_on()
        self._group.agreed = True
        self._mounted = message.mounted
        self._incarnation = self._journals.incarnation = message.incarnation
        self._files.start_over()  # gives up locks, before what they are on is closed
        if self._cached is not None and not message.mounted:
            self._look_last()  # at a mount that has died
        for tracked in list(self._tracked.values()):
            tracked.shm_serial += 1
            self._wals.close(tracked)
        if self._cached is not None:
            self._cached.start_over()
        self._meeting.begin(message)
        if self._cached is not None:
            for name in message.written:
                self._cached.opened(name)
        self._meeting.end(message)
        self._barriers.agreed()
        self._group.after(None, self._report_ready)

    def _report_ready(self, errno: int) -> None:
        if errno:
            self._group.after(None, self._report_ready)
            return
        self._withheld.tell()
        self._to_fuse.send(m.CaptureReady(self._token))
        self._mounted = True
        if not self._ready:
            self._ready = True
            self._alive()
            self._log.info("capturing", databases=len(self._tracked), epoch=self._epoch)
            self._check.begin(self._tracked)

    # --- held calls

    def _verdict(
        self, gate: int, errno: int, captured_end: int = 0, *, proven: bool = True
    ) -> None:
        if errno:
            self._to_fuse.send(m.RefuseGate(gate, errno))
        else:
            self._to_fuse.send(m.OpenGate(gate, captured_end, proven))

    def _look_last(self) -> None:
        for tracked in list(self._tracked.values()):
            self._contained(tracked.name, partial(self._wals.last_look, tracked))

    def _prove(self, message: m.ProveWrites) -> None:
        tracked = self._track(message.database)
        self._wals.collect(tracked)
        numbers = None if message.everything else message.numbers
        proven = m.WritesProven(message.sequence)
        self._check.prove(tracked, numbers, lambda: self._to_fuse.send(proven))

    def _removed(self, name: str) -> None:
        tracked = self._tracked.get(name)
        if tracked is not None:
            tracked.comparing = None
            self._group.drop(tracked)
            self._log.info("database dropped", db=name, txid=tracked.log.head.txid)

    # --- housekeeping

    def _sync(self) -> None:
        for tracked in list(self._tracked.values()):
            if tracked.unsynced:
                tracked.unsynced = False
                sync_log(self._helper, tracked.log, partial(self._sync_failed, tracked))

    def _sync_failed(self, tracked: Tracked, error: BaseException) -> None:
        if not tracked.gone:
            self._failed(tracked.name, error)

    def _retain(self) -> None:
        self._reactor.later(RETENTION_S, self._retain)
        heap.give_back()
        keep = self._config.retention
        for tracked in self._tracked.values():
            try:
                deleted = tracked.log.enforce_retention(
                    steady_clock.now_s(), keep.max_age_s, keep.max_bytes
                )
            except FILE_ERRORS as error:
                self._log.warning(
                    "can't delete old log segments", db=tracked.name, reason=str(error)
                )
                continue
            if deleted:
                self._log.info("deleted old log segments", db=tracked.name, segments=deleted)

    # --- what was asked of the mount

    def _ask_behind_everything(self, number: int, name: str) -> None:
        """Of one database, or of all."""
        if self._cached is None:
            self._ask_report(number, name)
        else:
            self._cached.write_out(name, lambda: self._ask_report(number, name))

    def _reported(self, number: int, *, being_written: bool) -> None:
        if not self._barriers.reached(number):
            self._files.reported(number, being_written=being_written)
            if self._cached is not None:
                self._cached.reported(number)


def _is_shown(tracked: Tracked) -> bool:
    return bool(tracked.appended.pages or tracked.failing.reason)


def make(config: Config, *, epoch: int) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return LogWriter(config, epoch=epoch).run
