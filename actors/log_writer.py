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
from litemq.actors import heap
from litemq.actors.barriers import Barriers
from litemq.actors.cached_writes import CachedWrites
from litemq.actors.file_capture import FileCapture
from litemq.actors.file_check import FileCheck
from litemq.actors.group_commit import STALLED_RETRY_S, GroupCommit
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout, application_file
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.actors.wal_capture import WalCapture
from litemq.config import Config
from litemq.errors import FormatError, LiteMQError, NotADatabaseError, StorageError
from litemq.fs.comparison import is_database
from litemq.fs.names import Kind, classify
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all

NAME = "log_writer"
HEARTBEAT_S = 0.25
#: the log reaches the disk this often; until then SQLite's own files are the durable copy
SYNC_S = 1.0
RETENTION_S = 5.0
ACK_S = 0.05


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
            beat=self._beat,
            cached=self._cached,
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
        self._token = ""
        self._mounted = False
        self._incarnation = 0
        self._ready = False
        self._acknowledge = 0
        self._barriers = Barriers(
            self._group,
            self._reactor,
            self._tracked,
            mounted=lambda: self._mounted,
            ask_report=self._ask_behind_everything,
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
        reactor.later(ACK_S, self._send_acks)
        self._group.announce(self._tracked.values())
        self._ask_for_resync()
        reactor.run()
        if self._sealing:
            for tracked in self._tracked.values():
                self._wals.last_look(tracked)  # at those who were in the middle of a transaction
        settled = []
        for tracked in self._tracked.values():
            with contextlib.suppress(LiteMQError, OSError):  # compared by whoever comes next
                if self._files.settle(tracked, fenced=self._succeeded):
                    settled.append(tracked)
        self._group.flush()
        for tracked in self._tracked.values():
            with contextlib.suppress(LiteMQError):
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
                databases=[t.status(state) for t in self._tracked.values() if t.appended.pages],
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

    def _open_logs(self) -> bool:
        """Open the logs that are not open yet; whether there were any. Raises StorageError."""
        known = len(self._tracked)
        for directory in sorted(self._layout.databases.iterdir()):
            self._track(directory.name)
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
                self._from_mount(message, payload)
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
            case m.CaptureEcho(token=number):
                self._reported(number)
            case _:
                return False
        return True

    def _from_mount(self, message: m.Message, payload: list[bytes]) -> None:
        """What happened in the mount since we agreed on how things stand.

        Before that it is dropped: the mount sends it again.
        """
        match message:
            case m.CommitPages():
                self._commit_pages(message, payload)
            case m.CommitFile():
                self._commit_file(message)
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
                for tracked in self._tracked.values():
                    self._wals.last_look(tracked)
            case m.ShmOpened(database=name):
                self._wals.open_index(self._track(name))
            case m.ShmRemoved(database=name):
                self._wals.close_index(self._track(name))
            case m.UnexplainedWrites(sequence=sequence, database=name):
                numbers = None if message.everything else message.numbers
                self._files.request(self._track(name), sequence=sequence, numbers=numbers)
            case m.DatabaseRemoved(database=name):
                self._removed(name)
            case _:
                log.strange_message(f"{type(message).__name__} is not for the log writer", 1)

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
        self._group.agreed = True
        self._mounted = message.mounted
        self._incarnation = message.incarnation
        self._files.start_over()  # gives up locks, before what they are on is closed
        for tracked in self._tracked.values():
            if self._cached is not None and not message.mounted:
                self._wals.last_look(tracked)  # at a mount that has died
            tracked.shm_serial += 1
            self._wals.close(tracked)
        if self._cached is not None:
            self._cached.start_over()
        if message.taken_over:
            self._take_over()
        elif not message.mounted:
            self._recover(unclean=message.unclean)
        for name in message.wals:
            self._wals.open(self._track(name), made=False)
        if self._cached is not None:
            for name in message.written:
                self._cached.opened(name)
        if message.mounted or message.taken_over:
            self._rejoin(message)
        self._barriers.agreed()
        self._group.after(None, self._report_ready)

    def _report_ready(self, errno: int) -> None:
        if errno:
            self._group.after(None, self._report_ready)
            return
        self._to_fuse.send(m.CaptureReady(self._token))
        self._mounted = True
        if not self._ready:
            self._ready = True
            self._alive()
            self._log.info("capturing", databases=len(self._tracked), epoch=self._epoch)
            self._check.begin(self._tracked)

    def _recover(self, *, unclean: bool) -> None:
        """A mount is about to start: nobody has a file open, the files alone tell what is so."""
        present = set()
        for entry in sorted(os.scandir(self._layout.files), key=lambda each: each.name):
            if classify(entry.name)[0] is Kind.DATABASE and entry.is_file():
                present.add(entry.name)
                self._recover_database(entry.name, unclean=unclean)
        for tracked in self._tracked.values():
            tracked.comparing = None
            if tracked.log.n_pages and tracked.name not in present:
                self._log.warning("the database file is gone; dropped", db=tracked.name)
                self._group.drop(tracked)

    def _take_over(self) -> None:
        """The mount was a replica's until now, and whoever has files open could not write."""
        for tracked in self._tracked.values():
            if tracked.log.n_pages:
                try:
                    if tracked.was_replica:
                        self._files.take_over(tracked)
                    else:  # an earlier log writer had begun
                        self._files.recover(tracked, compare_all=True)
                except (FormatError, OSError) as error:
                    self._log.error(
                        "can't read the database; not replicated",
                        db=tracked.name, reason=str(error),
                    )  # fmt: skip

    def _recover_database(self, name: str, *, unclean: bool) -> None:
        known = self._tracked.get(name)
        replicated = known is not None and known.log.n_pages
        if not replicated and not is_database(self._layout.files / name):
            return
        try:
            tracked = self._track(name)
            if tracked.was_replica:
                self._files.take_over(tracked, compare_all=True)
            else:
                self._files.recover(tracked, compare_all=unclean)
        except FormatError as error:
            self._log.error("can't read the database; not replicated", db=name, reason=str(error))

    def _rejoin(self, message: m.ResyncCapture) -> None:
        """The mount went on while this actor was away: open WAL indexes, look for what is gone."""
        for name in message.shms:
            self._wals.open_index(self._track(name))
        for tracked in list(self._tracked.values()):
            if tracked.log.n_pages and not os.path.exists(self._layout.files / tracked.name):
                self._removed(tracked.name)
            elif not tracked.log.trusted:
                self._files.request(tracked, numbers=None)

    # --- rollback journals, and the verdicts on held calls

    def _commit_pages(self, message: m.CommitPages, payload: list[bytes]) -> None:
        tracked = self._track(message.database)
        if not tracked.has_commit(self._incarnation, message.sequence):
            size, data = message.page_size, payload[0] if payload else b""
            pages = [
                (number, data[at * size : (at + 1) * size])
                for at, number in enumerate(message.numbers)
            ]
            capture = (0, 0, message.sequence, self._incarnation)
            try:
                self._group.prepare(tracked, pages, message.pages, size, capture=capture)
            except (ValueError, NotADatabaseError):
                # the log starts here, or has lost its page checksums: all pages are needed
                self._files.request(tracked, numbers=None)
        self._acknowledge = max(self._acknowledge, message.sequence)

    def _commit_file(self, message: m.CommitFile) -> None:
        tracked = self._track(message.database)
        if not tracked.has_commit(self._incarnation, message.sequence):
            numbers = None if message.everything else message.numbers
            capture = (0, 0, message.sequence, self._incarnation)
            try:
                self._files.log_difference(tracked, numbers=numbers, capture=capture)
            except (FormatError, OSError, ValueError) as error:
                self._log.error("can't read a commit", db=message.database, reason=str(error))
        gate = message.gate
        self._group.after(tracked, lambda errno: self._verdict(gate, errno))

    def _verdict(
        self, gate: int, errno: int, captured_end: int = 0, *, proven: bool = True
    ) -> None:
        if errno:
            self._to_fuse.send(m.RefuseGate(gate, errno))
        else:
            self._to_fuse.send(m.OpenGate(gate, captured_end, proven))

    def _send_acks(self) -> None:
        self._reactor.later(ACK_S, self._send_acks)
        self._group.flush()  # what this turn has prepared counts only once it is in the log
        if self._acknowledge and not self._group.stalled_errno:
            self._to_fuse.send(m.PagesLogged(self._acknowledge))
            self._acknowledge = 0

    def _removed(self, name: str) -> None:
        tracked = self._tracked.get(name)
        if tracked is not None:
            tracked.comparing = None
            self._group.drop(tracked)
            self._log.info("database dropped", db=name, txid=tracked.log.head.txid)

    # --- housekeeping

    def _sync(self) -> None:
        for tracked in self._tracked.values():
            if tracked.unsynced:
                tracked.unsynced = False
                self._helper.run(tracked.log.begin_sync())

    def _retain(self) -> None:
        self._reactor.later(RETENTION_S, self._retain)
        heap.give_back()
        keep = self._config.retention
        for tracked in self._tracked.values():
            try:
                deleted = tracked.log.enforce_retention(time.time(), keep.max_age_s, keep.max_bytes)
            except StorageError as error:
                self._log.warning("can't delete old log segments", reason=str(error))
                return
            if deleted:
                self._log.info("deleted old log segments", db=tracked.name, segments=deleted)

    # --- what was asked of the mount

    def _ask_behind_everything(self, number: int) -> None:
        if self._cached is None:
            self._ask_report(number)
        else:
            self._cached.write_out_all(lambda: self._ask_report(number))

    def _reported(self, number: int) -> None:
        if not self._barriers.reached(number):
            self._files.reported(number)
            if self._cached is not None:
                self._cached.reported(number)


def make(config: Config, *, epoch: int) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return LogWriter(config, epoch=epoch).run
