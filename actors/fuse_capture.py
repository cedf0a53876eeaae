"""The FUSE capture actor: serves the mount, and holds the calls that must wait for the log writer.

Owns the mount and the backing files. Never touches its own mount, never waits for anything but its
loop, and reads no log. Always true: what it has handed over, and what it holds, is known until the
log writer has answered (`handed_over.py`); commits are accepted as long as the lease lasts for
certain (`commit_term.py`).
"""

from __future__ import annotations

import errno as errno_of
import math
import os
import secrets
import signal
import time
from collections.abc import Callable

from litemq import log
from litemq.actors.commit_term import CommitTerm
from litemq.actors.fresh_positions import FreshPositions
from litemq.actors.handed_over import HandedOver
from litemq.actors.layout import REPLACED, Layout
from litemq.actors.placement import place
from litemq.actors.proc import parent_of
from litemq.actors.reachable import stay_reachable
from litemq.actors.write_proofs import WriteProofs
from litemq.config import Config
from litemq.errors import NotADatabaseError
from litemq.fs import mount
from litemq.fs.capture import Commit, DatabaseCapture
from litemq.fs.files import File, ShmFile
from litemq.fs.late_close import LateClose
from litemq.fs.operations import Operations
from litemq.fs.page_cache import PageCache
from litemq.fs.pages import HEADER_BYTES, parse_header
from litemq.fs.poll_loop import Event, PollLoop
from litemq.fs.processes import process_of
from litemq.fs.reserve import Reserve
from litemq.fs.session import Session
from litemq.fs.sqlite_acts import SqliteActs
from litemq.fs.sqlite_files import DatabaseFile, WalFile
from litemq.fs.tree import Tree
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all

NAME = "fuse_capture"
HEARTBEAT_S = 0.25
#: how often a write to a full disk is tried again
ROOM_RETRY_S = 0.1
#: and how often that is said
NO_ROOM_AGAIN_S = 30.0
#: how long a database file must have been left alone before unexplained writes are looked at
SETTLE_S = 0.05
#: who has files open when the mount goes has this long to close them
FAREWELL_S = 0.5


class FuseCapture:
    """The gatekeeper of the mount's files."""

    def __init__(self, config: Config, *, primary: bool, epoch: int) -> None:
        self._config = config
        self._layout = Layout(config.node.data_dir)
        self._log = log.get()
        self._endpoints = Endpoints(config.run_dir)
        self._epoch = epoch
        self._primary = primary
        self._loop = PollLoop()
        self._gates_in = Receiver.bind(self._endpoints.gates, on_garbage=log.strange_message)
        self._to_log = Sender(self._endpoints.capture)
        self._to_supervisor = Sender(self._endpoints.control)
        #: never that of another mount, whatever the clock says
        self._incarnation = secrets.randbits(62) | 1
        self._handed_over = HandedOver(
            self._send, cached=config.caches_writes, refused=lambda: self._refused
        )
        self._proofs = WriteProofs(
            self._loop,
            self._send,
            page_size=self._page_size,
            capturing=lambda: self.capturing,
        )
        self._fresh = FreshPositions(self._loop, self._send, self._endpoints.gates)
        self._ready: Event[None] = Event()
        self._resync_token = ""
        self._mounted = False
        self._ending: Event[None] = Event()
        marker = self._layout.mounted
        self._after_a_death = marker.exists()
        self._unclean = self._after_a_death and marker.read_text() != REPLACED
        self._admitted = 0
        self._primary_text = f"? {config.election.primary or ''}".rstrip().encode() + b"\n"
        if primary:
            self._primary_text = f"{config.node.name} {config.election.primary}\n".encode()
        #: a stalled log, a drain
        self._refused = 0
        self._term = CommitTerm(
            config,
            self._loop,
            ends=primary and config.is_elected,
            ask_before_writes=self._ask_before_writes,
        )
        self._taken_over = False
        self._cached = config.caches_writes
        # what the gatekeeper's protocol calls for
        self.read_only = not primary
        self.capturing = primary
        self._closed = False
        #: a replica whose cache has gone with the mount before this one
        self.unverified = self._cached and self._unclean and not primary
        self._reserve = Reserve(self._layout.reserve) if self._cached else None
        #: database -> the last position of a file that is gone, until its log says so, too
        self._dropped: dict[str, bytes] = {}
        #: when it was last said that the disk has no room for a page that nobody can refuse
        self._no_room_s = -math.inf
        self._tree = Tree(self._layout.files, self, cached=self._cached)
        self._page_cache = PageCache(self._loop)
        self._late_close = LateClose()
        self._session = Session(
            self._loop,
            str(config.mount.path),
            name=f"litemq:{config.node.name}",
            allow_other=config.mount.allow_other,
        )
        self._operations = Operations(
            self._tree, self, mount_path=str(config.mount.path), cached=self._cached
        )
        self._acts = SqliteActs(0, after_a_death=False)

    # --- life

    def run(self) -> int:
        """Serve until SIGTERM; 0 when the mount is gone again."""
        signal.signal(signal.SIGTERM, lambda *_: self._ending.set())
        place(self._config, NAME)  # this thread alone: ZeroMQ's stays out of the way
        self._tree.load()
        self._layout.mounted.write_text("")
        try:
            self._loop.run(self._main())
        finally:
            self._unmount()
        return 0

    async def _main(self) -> None:
        loop = self._loop
        loop.spawn(self._receive(), "gates")
        loop.spawn(self._beat(), "heartbeat")
        loop.spawn(self._end(), "the end")
        if self._primary:
            await self._ready.wait()
        self._session.mount(self._operations)
        entry = mount.find_mount(str(self._config.mount.path))
        device = 0 if entry is None else entry.minor
        self._acts = SqliteActs(device, after_a_death=self._after_a_death)
        self._operations.mounted(self._acts)
        self._mounted = True
        self._log.info("mounted", path=str(self._config.mount.path))
        self._alive()
        if not self._primary:
            self._send(m.CaptureStarted(self._incarnation))
        await self._session.serve()
        if not self._ending.is_set:
            self._log.warning("the mount was taken away", path=str(self._config.mount.path))

    async def _end(self) -> None:
        await self._ending.wait()
        if self._mounted:
            await self._session.detach(self._in_use, FAREWELL_S)
        self._loop.stop()

    def _in_use(self) -> bool:
        """Whether an application has a file open; other actors have, until they end.

        A thread that is gone, or in another PID namespace, was an application's: actors open files
        in threads that last.
        """
        return any(not self.is_actor(pid) for pid in self._operations.openers)

    def _unmount(self) -> None:
        self._page_cache.close()
        self._session.unmount()
        if self._reserve is not None:
            self._reserve.remove()
        # what is not in the log yet is found by comparing, at the next start
        changed = any(each.changed for each in self._tree.captures.values())
        left = changed or self._handed_over.anything_unexplained
        if self._cached and self._in_use():  # what they write from now on is the kernel's alone
            left = True
        left = left or bool(self._tree.withheld)
        if (self._mounted or not self._unclean) and not left:
            self._layout.mounted.unlink(missing_ok=True)
        close_all()

    async def _beat(self) -> None:
        while True:
            self._alive()
            stay_reachable(self._gates_in)
            if self._reserve is not None:
                self._reserve.keep()
            if self._primary and not self._ready.is_set:
                self._send(m.CaptureStarted(self._incarnation))
            await self._loop.sleep(HEARTBEAT_S)

    def _alive(self) -> None:
        self._to_supervisor.send(
            m.ActorAlive(
                NAME,
                os.getpid(),
                ready=self._mounted and self.read_only != self._primary,
                epoch=self._epoch,
            )
        )

    # --- what the log writer, the applier and the supervisor say

    async def _receive(self) -> None:
        receiver = self._gates_in
        while True:
            for message, _ in receiver.drain():
                self._handle(message)
            if not receiver.more:
                await self._loop.wait_readable(receiver.fd)

    def _handle(self, message: m.Message) -> None:
        match message:
            case m.OpenGate(gate=number, captured_end=end, proven=proven):
                self._handed_over.open_gate(number, end, proven=proven)
            case m.RefuseGate(gate=number, errno=errno):
                self._handed_over.refuse_gate(number, errno)
            case m.PagesLogged(sequence=sequence):
                self._handed_over.logged(sequence)
            case m.WritesExplained(sequence=sequence, database=database):
                self._handed_over.explained(database, sequence)
            case m.WritesProven(sequence=sequence):
                self._proofs.proven(sequence)
            case m.BarrierReached(request=number):
                self._fresh.reached(number)
            case m.LogWriterStarted(token=token):
                self._resync(token)
            case m.EchoCapture(token=number, database=database):
                self._echo(number, database)
            case m.CaptureReady(token=token):
                if token == self._resync_token:
                    self._ready.set()
                    if self._primary and self.read_only:
                        self._taken_over = self.read_only = False
                        self._log.info("taking writes", epoch=self._epoch)
                        self._alive()
            case m.LogStalled(errno=errno):
                if not self._closed:
                    self._refused = errno
                    self._handed_over.look()
            case m.WithholdDatabases(databases=databases):
                if self._primary:
                    self._tree.withhold(databases)
            case m.AdmitWriter(pid=pid, compared=compared):
                if self._mounted:
                    self._admitted = pid
                    self.unverified = self.unverified and compared != self._incarnation
                    self._to_log.send(m.WriterAdmitted(pid, self._incarnation))
            case m.SetRole(primary=primary, epoch=epoch, text=text):
                self._primary_text = text.encode() + b"\n"
                self._set_role(primary=primary, epoch=epoch)
                self._to_supervisor.send(m.RoleSet(primary, epoch))
            case m.AcceptCommits(epoch=epoch, until_ns=until_ns):
                if epoch == self._epoch and self._primary:
                    self._term.accept(until_ns / 1e9)
            case m.HoldWrites(epoch=epoch):
                if epoch == self._epoch and self._primary:
                    self._term.hold()
            case m.FenceWrites(reply_to=reply_to, attempt=attempt):
                if self._primary:
                    self._term.fence()
                self._term.let_go()
                reply = Sender(reply_to)
                reply.send(m.WritesFenced(attempt))
                reply.close()
            case m.ShowPrimary(text=text):
                self._primary_text = text.encode() + b"\n"
            case m.CloseWrites(reply_to=reply_to):
                self._closed = True
                self._refused = errno_of.EROFS
                if self._cached and not self._config.is_elected:  # there nobody can write any more
                    self._send(m.SealDatabases())
                self._report_all()
                reply = Sender(reply_to)
                reply.send(m.WritesClosed())
                reply.close()
            case _:
                self._log.warning("unexpected message", message=type(message).__name__)

    def _echo(self, number: int, database: str) -> None:
        """Behind a report of what has changed: of one database, or of all."""
        file = self._tree.by_name.get(database)
        being_written = False
        if isinstance(file, DatabaseFile):
            file.report_unexplained()
            # or whoever did so was refused
            being_written = file.writers > 0 or self.fenced
        elif not database:
            self._report_all()
        self._send(m.CaptureEcho(number, being_written))

    def _report_all(self) -> None:
        for file in self._tree.by_name.values():
            if isinstance(file, DatabaseFile):
                file.report_unexplained()

    def _set_role(self, *, primary: bool, epoch: int) -> None:
        """Change sides while files are open. Told again, it changes nothing."""
        if (primary, epoch) == (self._primary, self._epoch):
            return
        self._primary, self._epoch = primary, epoch
        self._term.let_go()
        self._closed, self._refused, self._admitted = False, 0, 0
        self.read_only, self.capturing = True, primary
        self._taken_over = primary
        before, self._ready = self._ready, Event()
        if not primary:
            before.set()  # a mount that waited for the log writer is a replica's now
        self._resync_token = ""
        if primary:
            self._term.fence()
        else:
            self._term.forget()
        self._handed_over.give_up(errno_of.EROFS)
        self._operations.revoke_writers()
        self._tree.withhold(())
        self._tree.relearn()
        if not primary:
            self._send(m.CaptureStarted(self._incarnation))
        self._alive()

    def _ask_before_writes(self) -> None:
        if self._cached and self._mounted:
            self._operations.ask_before_writes()

    @property
    def refuse_errno(self) -> int:
        """Errno for every write that starts or extends a transaction; 0: go ahead."""
        if self._refused:
            return self._refused
        if self._reserve is not None and self._reserve.used:
            return errno_of.ENOSPC
        return errno_of.EROFS if self.fenced else 0

    @property
    def fenced(self) -> bool:
        """Whether the lease may have ended; never on a replica, nor where the primary is fixed."""
        return self._term.over

    @property
    def holding(self) -> Event[None] | None:
        return self._term.holding

    @property
    def cached_writes_s(self) -> float:
        return self._term.cached_writes_s

    def _resync(self, token: str) -> None:
        """A log writer starts over: tell it how things stand, and everything it may have missed."""
        self._resync_token = token
        names = self._tree.by_name.values()
        self._send(
            m.ResyncCapture(
                token,
                self._incarnation,
                mounted=self._ready.is_set,
                taken_over=self._taken_over,
                unclean=self._unclean,
                wals=[file.capture.name for file in names if isinstance(file, WalFile)],
                shms=[file.database for file in names if isinstance(file, ShmFile)],
                written=[
                    file.name
                    for file in names
                    if self._cached and isinstance(file, DatabaseFile) and file.writers
                ],
                withheld=sorted(self._tree.withheld),
            )
        )
        self._handed_over.send_again()
        self._proofs.send_again()

    def _send(self, message: m.Message, *payload: bytes) -> None:
        if not self._to_log.send(message, *payload):
            # The queue holds far more than can be outstanding; what is lost now is sent at the next
            # resync.
            self._log.warning("the log writer does not read", message=type(message).__name__)

    # --- the gatekeeper's protocol

    def is_actor(self, pid: int) -> bool:
        return parent_of(pid) == os.getppid()

    def admitted(self, pid: int) -> bool:
        """No pid: a thread of another PID namespace, which is no actor's."""
        return 0 not in (pid, self._admitted) and self._admitted in (pid, process_of(pid))

    async def wal_gate(self, capture: DatabaseCapture) -> bool:
        if not self._primary:
            return True
        return await self._handed_over.wal_gate(capture)

    async def hand_over(self, capture: DatabaseCapture, commit: Commit) -> None:
        if self._primary:
            await self._handed_over.hand_over(capture, commit)

    async def commits_logged(self, database: str) -> None:
        await self._handed_over.all_logged(database)

    def unexplained_pending(self, database: str) -> bool:
        return self._handed_over.unexplained_pending(database)

    def unexplained(self, capture: DatabaseCapture, commit: Commit) -> None:
        if self._primary:
            self._handed_over.report(
                capture.name, everything=commit.everything, numbers=commit.numbers
            )

    def checkpointing(self, database: str) -> bool:
        return self._unseen or self._acts.checkpoints(*self._database_and_index(database))

    def rollback_writer(self, database: str, thread: int | None = None) -> bool:
        return self._acts.writes_in_rollback_mode(self._tree.by_name.get(database), thread)

    def wal_locked(self, database: str) -> bool:
        return self._unseen or self._acts.cuts_wal(*self._database_and_index(database))

    @property
    def _unseen(self) -> bool:
        """Whether a program is in another PID namespace: the kernel hides its locks from us."""
        return 0 in self._operations.openers

    def _database_and_index(self, database: str) -> tuple[File | None, File | None]:
        names = self._tree.by_name
        return names.get(database), names.get(f"{database}-shm")

    def changed_by_hand(self, database: str, what: str) -> None:
        if database not in self._tree.by_name:
            return  # it has gone before: who makes another begins anew
        self._log.info("a database was changed by hand; comparing", db=database, lost=what)
        self._handed_over.report(database, everything=True, numbers=[])

    def wal_opened(self, database: str) -> None:
        if self._primary:
            self._send(m.WalOpened(database))

    def wal_removed(self, database: str) -> None:
        if self._primary:
            self._send(m.WalRemoved(database))

    def wal_rewritten(self, database: str) -> None:
        if self._primary:
            self._log.info("the WAL has started over without an fsync; comparing", db=database)
            self._handed_over.report(database, everything=True, numbers=[])

    def database_opened(self, database: str) -> None:
        self._send(m.DatabaseOpened(database))

    def database_closed(self, database: str) -> None:
        self._send(m.DatabaseClosed(database))

    async def wait_for_room(self, name: str) -> None:
        if self._reserve is not None and self._reserve.give():
            self._log.error("the disk is full; syncs are refused")
            return
        if time.monotonic() - self._no_room_s >= NO_ROOM_AGAIN_S:
            self._no_room_s = time.monotonic()
            self._log.error(
                "the disk is full; what programs have written waits for room", file=name
            )
        await self._loop.sleep(ROOM_RETRY_S)

    def shm_opened(self, database: str) -> None:
        if self._primary:
            self._send(m.ShmOpened(database))

    def shm_removed(self, database: str) -> None:
        if self._primary:
            self._send(m.ShmRemoved(database))

    def database_removed(self, database: str) -> None:
        self._handed_over.forget_reports(database)
        self._proofs.forget(database)
        if self._primary:
            position = self._position(database)
            if position is not None:
                self._dropped[database] = position
            self._send(m.DatabaseRemoved(database))

    async def store_in_page_cache(self, inode: int, offset: int, data: bytes) -> None:
        await self._page_cache.store(inode, offset, data)

    def remove(self, path: str) -> None:
        self._late_close.unlink(path)

    async def position_is_fresh(self, database: str) -> None:
        if self._primary and self._ready.is_set and not self.refuse_errno:
            await self._fresh.wait(database)

    def position_text(self, database: str) -> bytes | None:
        if database in self._tree.withheld:
            return None
        position = self._position(database)
        if position is not None and position == self._dropped.get(database):
            return None  # of the file that bore the name before
        self._dropped.pop(database, None)
        return position

    def _position(self, database: str) -> bytes | None:
        try:
            return self._layout.position(database).read_bytes() or None
        except OSError:
            return None

    def primary_text(self) -> bytes:
        return self._primary_text

    def prove_later(self, capture: DatabaseCapture) -> None:
        self._proofs.later(capture)

    def _page_size(self, database: str) -> int:
        try:
            with open(self._layout.files / database, "rb") as file:
                return parse_header(file.read(HEADER_BYTES)).page_size
        except (OSError, NotADatabaseError):
            return 0

    def settle_later(self, capture: DatabaseCapture) -> None:
        capture.settle_timer = True
        self._loop.call_later(SETTLE_S, lambda: self._settled(capture))

    def _settled(self, capture: DatabaseCapture) -> None:
        capture.settle_timer = False
        if time.monotonic() - capture.touched_s < SETTLE_S:
            self.settle_later(capture)
            return
        file = self._tree.by_name.get(capture.name)
        if isinstance(file, DatabaseFile):
            file.report_unexplained()


def make(config: Config, *, primary: bool, epoch: int) -> Callable[[], int]:
    """The actor, for a process of its own: what has it work, and returns the exit code."""
    return FuseCapture(config, primary=primary, epoch=epoch).run
