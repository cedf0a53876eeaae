"""The FUSE capture actor: serves the mount, and holds the calls that must wait for the log writer.

Owns the mount, the backing files, and the gates. Never touches its own mount, never waits for
anything but its loop, and reads no log. Always true: a transaction it has handed over stays in
`_outstanding` until the log writer has acknowledged it; a gate stays in `_gates` until it is opened
or refused; both are sent again to a new log writer. Where the lease is a lock file, commits are
accepted only under a lock that no two mounts can hold.
"""

from __future__ import annotations

import contextlib
import errno as errno_of
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from litemq import log
from litemq.actors.layout import Layout
from litemq.actors.placement import place
from litemq.actors.proc import parent_of
from litemq.config import Config
from litemq.election import clock
from litemq.election.opening import open_commits_lock
from litemq.fs import kernel_cache, mount
from litemq.fs.capture import Commit, DatabaseCapture
from litemq.fs.files import DatabaseFile, ShmFile, WalFile
from litemq.fs.late_close import LateClose
from litemq.fs.operations import Operations
from litemq.fs.page_cache import PageCache
from litemq.fs.poll_loop import Event, PollLoop
from litemq.fs.reserve import Reserve
from litemq.fs.session import Session
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
#: the end of a lease is looked at so long after it (seconds)
LEASE_LOOK_S = 0.001
#: bytes of unacknowledged transactions above which commits wait for the log writer
OUTSTANDING_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class _Gate:
    """A held call."""

    capture: DatabaseCapture
    generation: int
    message: m.Message
    event: Event[int]
    proven: bool = True


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
        self._gates_in = Receiver.bind(self._endpoints.gates)
        self._to_log = Sender(self._endpoints.capture)
        self._to_supervisor = Sender(self._endpoints.control)
        self._incarnation = time.time_ns() // 1000
        self._sequence = itertools.count(1)
        self._gate_ids = itertools.count(1)
        self._gates: dict[int, _Gate] = {}
        self._outstanding: dict[int, tuple[m.CommitPages, bytes]] = {}
        self._outstanding_bytes = 0
        self._room: Event[None] = Event()
        #: something outstanding has been acknowledged
        self._acknowledged: Event[None] = Event()
        #: database -> number of the last report of unexplained writes that is not in the log yet
        self._unexplained: dict[str, int] = {}
        self._ready: Event[None] = Event()
        self._resync_token = ""
        self._mounted = False
        self._ending: Event[None] = Event()
        self._unclean = self._layout.mounted.exists()
        self._admitted = 0
        self._primary_text = f"? {config.election.primary or ''}".rstrip().encode() + b"\n"
        if primary:
            self._primary_text = f"{config.node.name} {config.election.primary}\n".encode()
        #: a stalled log, a drain
        self._refused = 0
        #: a primary takes writes until then (seconds on the boot clock); a fixed one has no end
        self._accepts_until_s = 0.0 if primary and config.is_elected else math.inf
        self._commits_lock = open_commits_lock(config)
        self._taken_over = False
        # what the gatekeeper's protocol calls for
        self.read_only = not primary
        self.holding: Event[None] | None = None
        self.capturing = primary
        self._closed = False
        self._lease_watched = False
        self._reserve = Reserve(self._layout.reserve) if config.caches_writes else None
        #: when it was last said that the disk has no room for a page that nobody can refuse
        self._no_room_s = -math.inf
        self._cached = config.caches_writes
        self._tree = Tree(self._layout.files, self, cached=self._cached)
        self._page_cache = PageCache(self._loop)
        self._late_close = LateClose()
        self._session = Session(
            self._loop,
            str(config.mount.path),
            name=f"litemq:{config.node.name}",
            allow_other=config.mount.allow_other,
        )
        self._operations = Operations(self._tree, self, cached=self._cached)

    # --- life

    def run(self) -> int:
        """Serve until SIGTERM; 0 when the mount is gone again."""
        signal.signal(signal.SIGTERM, lambda *_: self._ending.set())
        place(self._config, NAME)  # this thread alone: ZeroMQ's stays out of the way
        self._tree.load()
        self._layout.mounted.touch()
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
        self._operations.mounted(0 if entry is None else entry.minor)
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
        """Whether an application has a file open; other actors have, until they end."""
        ours = os.getppid()
        return any(parent_of(pid) not in (0, ours) for pid in self._operations.openers)

    def _unmount(self) -> None:
        self._page_cache.close()
        self._session.unmount()
        if self._reserve is not None:
            self._reserve.remove()
        # what is not in the log yet is found by comparing, at the next start
        left = self._unexplained or any(each.changed for each in self._tree.captures.values())
        if self._cached and self._in_use():  # what they write from now on is the kernel's alone
            left = True
        if (self._mounted or not self._unclean) and not left:
            self._layout.mounted.unlink(missing_ok=True)
        close_all()

    async def _beat(self) -> None:
        while True:
            self._alive()
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
                self._open_gate(number, end, proven=proven)
            case m.RefuseGate(gate=number, errno=errno):
                gate = self._gates.pop(number, None)
                if gate is not None:
                    gate.event.set(errno)
            case m.PagesLogged(sequence=sequence):
                self._logged(sequence)
            case m.WritesExplained(sequence=sequence, database=database):
                if self._unexplained.get(database) == sequence:
                    del self._unexplained[database]
            case m.LogWriterStarted(token=token):
                self._resync(token)
            case m.EchoCapture(token=number, database=database):
                file = self._tree.by_name.get(database)
                if isinstance(file, DatabaseFile):
                    file.report_unexplained()
                elif self._cached and not database:
                    self._report_all()
                self._send(m.CaptureEcho(number))
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
                    self._look_at_acknowledgements()
            case m.AdmitWriter(pid=pid):
                if self._mounted:
                    self._admitted = pid
                    self._to_log.send(m.WriterAdmitted(pid))
            case m.SetRole(primary=primary, epoch=epoch, text=text):
                self._primary_text = text.encode() + b"\n"
                self._set_role(primary=primary, epoch=epoch)
                self._to_supervisor.send(m.RoleSet(primary, epoch))
            case m.AcceptCommits(epoch=epoch, until_ns=until_ns):
                if epoch == self._epoch and self._primary:
                    self._accept_commits(until_ns / 1e9)
            case m.HoldWrites(epoch=epoch):
                if epoch == self._epoch and self._primary and self.holding is None:
                    self.holding = Event()
                    self._ask_before_writes()
            case m.FenceWrites(reply_to=reply_to, attempt=attempt):
                if self._primary:
                    self._fence()
                self._let_writers_go()
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

    def _report_all(self) -> None:
        for file in self._tree.by_name.values():
            if isinstance(file, DatabaseFile):
                file.report_unexplained()

    def _set_role(self, *, primary: bool, epoch: int) -> None:
        """Change sides while files are open. Told again, it changes nothing."""
        if (primary, epoch) == (self._primary, self._epoch):
            return
        self._primary, self._epoch = primary, epoch
        self._let_writers_go()
        self._closed, self._refused, self._admitted = False, 0, 0
        self.read_only, self.capturing = True, primary
        self._taken_over = primary
        before, self._ready = self._ready, Event()
        if not primary:
            before.set()  # a mount that waited for the log writer is a replica's now
        self._resync_token = ""
        self._fence()
        if not primary:
            self._accepts_until_s = math.inf  # whoever writes is refused for other reasons
        for gate in self._gates.values():
            gate.event.set(errno_of.EROFS)
        self._gates.clear()
        self._outstanding.clear()
        self._outstanding_bytes = 0
        self._room.set()
        self._look_at_acknowledgements()
        self._unexplained.clear()
        self._operations.revoke_writers()
        self._tree.relearn()
        if not primary:
            self._send(m.CaptureStarted(self._incarnation))
        self._alive()

    def _accept_commits(self, until_s: float) -> None:
        """Told again and again; refused as long as another mount holds the lock."""
        try:
            free = self._commits_lock is None or self._commits_lock.take()
        except OSError as error:
            self._log.info("commits wait for the lock file", reason=error.strerror)
            free = False
        self._accepts_until_s = until_s if free else 0.0
        if free:
            self._let_writers_go()
            self._watch_lease()

    def _fence(self) -> None:
        """Refuse whatever ends a transaction."""
        self._accepts_until_s = 0.0
        if self._commits_lock is not None:
            self._commits_lock.free()
        self._ask_before_writes()

    def _watch_lease(self) -> None:
        """When the lease ends, nothing that the kernel was told before is to count."""
        left_s = self._accepts_until_s - clock.now_s()
        if self._cached and not self._lease_watched and left_s < math.inf:
            self._lease_watched = True
            self._loop.call_later(max(left_s, 0.0) + LEASE_LOOK_S, self._look_at_lease)

    def _look_at_lease(self) -> None:
        self._lease_watched = False
        if not self.fenced:
            self._watch_lease()
        elif self._primary:
            self._ask_before_writes()

    def _ask_before_writes(self) -> None:
        if self._cached and self._mounted:
            self._operations.ask_before_writes()

    def _let_writers_go(self) -> None:
        if self.holding is not None:
            self.holding.set()
            self.holding = None

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
        return clock.now_s() >= self._accepts_until_s

    @property
    def cached_writes_s(self) -> float:
        held = self.holding is not None
        return 0.0 if held else kernel_cache.lifetime_s(self._accepts_until_s - clock.now_s())

    def _open_gate(self, number: int, captured_end: int, *, proven: bool) -> None:
        gate = self._gates.pop(number, None)
        if gate is None:
            return
        capture = gate.capture
        # where writes are cached, nobody here knows how far the WAL goes by now
        if gate.generation == capture.generation and not self._cached:
            capture.captured_end = max(capture.captured_end, captured_end)
        gate.proven = proven
        gate.event.set(0)

    def _logged(self, sequence: int) -> None:
        for number in [number for number in self._outstanding if number <= sequence]:
            _, data = self._outstanding.pop(number)
            self._outstanding_bytes -= len(data)
        if self._outstanding_bytes < OUTSTANDING_BYTES and not self._room.is_set:
            self._room.set()
        self._look_at_acknowledgements()

    def _look_at_acknowledgements(self) -> None:
        self._acknowledged.set()
        self._acknowledged = Event()

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
            )
        )
        held = [gate.message for gate in self._gates.values()]
        pending: Iterable[tuple[int, m.Message, bytes]] = sorted(
            [(number, message, data) for number, (message, data) in self._outstanding.items()]
            + [(each.sequence, each, b"") for each in held if isinstance(each, m.CommitFile)],
            key=lambda entry: entry[0],
        )
        for _, message, data in pending:
            self._send(message, *([data] if data else []))
        for each in held:
            if not isinstance(each, m.CommitFile):
                self._send(each)
        for database, sequence in self._unexplained.items():
            self._send(m.UnexplainedWrites(sequence, database, everything=True, numbers=[]))

    def _send(self, message: m.Message, *payload: bytes) -> None:
        if not self._to_log.send(message, *payload):
            # The queue holds far more than can be outstanding; what is lost now is sent at the next
            # resync.
            self._log.warning("the log writer does not read", message=type(message).__name__)

    # --- the gatekeeper's protocol

    def is_actor(self, pid: int) -> bool:
        return parent_of(pid) == os.getppid()

    def serves(self, pid: int) -> bool:
        # a replica's applier, which writes, is a program like any other
        return self._primary and self.is_actor(pid)

    def admitted(self, pid: int) -> bool:
        if not self._admitted or pid == self._admitted:
            return pid == self._admitted
        return os.path.exists(f"/proc/{self._admitted}/task/{pid}")

    async def wal_gate(self, capture: DatabaseCapture) -> bool:
        if not self._primary:
            return True
        number = next(self._gate_ids)
        return await self._hold(number, capture, m.WalGate(number, capture.name, capture.wal_end))

    async def _hold(self, number: int, capture: DatabaseCapture, message: m.Message) -> bool:
        gate = self._gates[number] = _Gate(capture, capture.generation, message, Event())
        self._send(message)
        errno = await gate.event.wait()
        if errno:
            raise OSError(errno, os.strerror(errno))
        return gate.proven

    async def hand_over(self, capture: DatabaseCapture, commit: Commit) -> None:
        if not self._primary:
            return
        sequence = next(self._sequence)
        if commit.data is None:
            number = next(self._gate_ids)
            message = m.CommitFile(
                sequence, number, capture.name, commit.everything, commit.numbers
            )
            with contextlib.suppress(OSError):  # the journal is gone: the transaction stands
                await self._hold(number, capture, message)
            return
        handed = m.CommitPages(
            sequence, capture.name, commit.page_size, commit.pages, commit.numbers
        )
        self._outstanding[sequence] = (handed, commit.data)
        self._outstanding_bytes += len(commit.data)
        self._send(handed, commit.data)
        if self._outstanding_bytes >= OUTSTANDING_BYTES:
            self._room = Event()
            await self._room.wait()

    async def commits_logged(self, database: str) -> None:
        while any(message.database == database for message, _ in self._outstanding.values()):
            if self._refused:  # it may last: whoever waits here holds the directory
                raise OSError(self._refused, os.strerror(self._refused))
            await self._acknowledged.wait()

    def unexplained_pending(self, database: str) -> bool:
        return database in self._unexplained

    def unexplained(self, capture: DatabaseCapture, commit: Commit) -> None:
        if self._primary:
            self._report(capture.name, everything=commit.everything, numbers=commit.numbers)

    def _report(self, database: str, *, everything: bool, numbers: list[int]) -> None:
        """Have the log writer compare; told again to a new one until it says that it has."""
        sequence = self._unexplained[database] = next(self._sequence)
        self._send(m.UnexplainedWrites(sequence, database, everything, numbers))

    def wal_opened(self, database: str) -> None:
        if self._primary:
            self._send(m.WalOpened(database))

    def wal_removed(self, database: str) -> None:
        if self._primary:
            self._send(m.WalRemoved(database))

    def wal_rewritten(self, database: str) -> None:
        if self._primary:
            self._log.info("the WAL has started over without an fsync; comparing", db=database)
            self._report(database, everything=True, numbers=[])

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
        if self._primary:
            self._send(m.DatabaseRemoved(database))

    async def store_in_page_cache(self, inode: int, offset: int, data: bytes) -> None:
        await self._page_cache.store(inode, offset, data)

    def remove(self, path: str) -> None:
        self._late_close.unlink(path)

    def position_text(self, database: str) -> bytes | None:
        try:
            return self._layout.position(database).read_bytes() or None
        except OSError:
            return None

    def primary_text(self) -> bytes:
        return self._primary_text

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
