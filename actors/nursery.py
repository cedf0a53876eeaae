"""The nursery: the process that every actor is forked from.

It is forked from the supervisor before that has a thread or a socket, so that actors may be forked
at any later time from a process that has neither; what it has imported, all actors share. It
receives actor factories from the supervisor over a socket pair that no other process holds. This is
the only module that unpickles, and it unpickles only what its own parent wrote. (Of a hook, that is
what its parent got from the process that loads it, and has not looked into.)

Always true: when the supervisor dies, however it dies, the nursery dies, and with it every actor
(but one, by a moment: `lifeline`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import ClassVar

import cloudpickle
import msgspec
from setproctitle import setproctitle

from litemq.actors import lifeline
from litemq.errors import LiteMQError, NoThreadError

#: One request or report at most (bytes).
MAX_DATAGRAM = 128 * 1024
#: where the system sets no limit
_MOST_FILES = 1 << 20
#: what a child runs; the call it is given returns when it may begin
Factory = Callable[[Callable[[], None]], int]
#: how requests begin: a child, one that has to wait, an end of that wait, one that outlives others
_START, _HOLD, _RELEASE, _OUTLIVE = b"S", b"H", b"R", b"O"
#: a survivor ends by itself; one that was stopped does not
_ENDS_S = lifeline.LONGEST_S + 0.5
_LOOK_S = 0.005


class Started(msgspec.Struct, frozen=True, tag=True):
    """A child runs."""

    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A child ended: exit code, or minus the signal that killed it."""

    pid: int
    code: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The system gives no process: a limit of the user, the control group or the machine."""

    reason: str


Report = Started | Exited | Refused
_decode_report: Callable[[bytes], Report] = msgspec.json.Decoder(Report).decode


def _code_of(file: str, build: Callable[..., CodeType], parts: tuple[object, ...]) -> CodeType:
    return build(*parts).replace(co_filename=file)


def _pickle_code(code: CodeType) -> tuple[object, ...]:
    build, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _code_of, (code.co_filename, build, parts)


class _WithFiles(cloudpickle.Pickler):  # type: ignore[misc]
    """Keeps the names of source files, which tracebacks need: cloudpickle 3.1.3 drops them."""

    dispatch_table: ClassVar[ChainMap[type, object]] = ChainMap(
        {CodeType: _pickle_code}, cloudpickle.Pickler.dispatch_table
    )


def pickle_by_value(function: Callable[..., object], modules: Iterable[ModuleType]) -> bytes:
    """The function, and whatever it uses of these modules, for a process that can't import them.

    Raises what pickling raises: anything.
    """
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    pickled = io.BytesIO()
    _WithFiles(pickled).dump(function)
    return pickled.getvalue()


def unpickle_function(data: bytes) -> Callable[..., object]:
    """What `pickle_by_value` was given; for bytes that this process has from its parent.

    Raises what the imports of the function raise: anything.
    """
    function: Callable[..., object] = cloudpickle.loads(data)
    return function


@dataclass(slots=True)
class Nursery:
    """The supervisor's end: start children, hear of their end."""

    _socket: socket.socket
    pid: int

    @classmethod
    def open(cls, title: str, preload: Sequence[str] = ()) -> Nursery:
        """Fork the nursery, which imports the modules `preload`: its children share them.

        Call before any thread, ZeroMQ context or secret exists in this process. Raises
        NoThreadError.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            raise NoThreadError(f"no process is left: {error.strerror}") from error
        if pid == 0:
            status = 1
            try:
                lifeline.die_with_parent(parent)
                ours.close()
                setproctitle(title)
                _allow_open_files()
                status = _serve(theirs, preload)
            finally:
                os._exit(status)
        theirs.close()
        return cls(ours, pid)

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, factory: Factory, *, held: bool = False, outlives: bool = False) -> None:
        """Ask for a child that runs `factory` and exits with what it returns.

        `reports` tells its pid. If it is `held`, what it has to wait for is `release`. One that
        `outlives` the others (`lifeline`) is not killed with them.
        """
        kind = _HOLD if held else _OUTLIVE if outlives else _START
        data = kind + cloudpickle.dumps(factory)
        if len(data) > MAX_DATAGRAM:
            raise LiteMQError(f"an actor's factory takes {len(data)} bytes, {MAX_DATAGRAM} at most")
        self._socket.send(data)

    def release(self, pid: int) -> None:
        """A child that was held may begin."""
        self._socket.send(_RELEASE + b"%d" % pid)

    def reports(self, timeout_s: float = 0.0) -> list[Report]:
        """What happened to children. Raises LiteMQError when the nursery itself is gone."""
        found: list[Report] = []
        waiting = select.poll()  # not select(): it knows no descriptor above 1,023
        waiting.register(self._socket, select.POLLIN)
        while waiting.poll(0 if found else timeout_s * 1000):
            data = self._socket.recv(MAX_DATAGRAM)
            if not data:
                raise LiteMQError(
                    "the process that starts the actors is gone; start the node again"
                )
            found.append(_decode_report(data))
        return found

    def close(self) -> None:
        """End the nursery; children that still live are killed."""
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _allow_open_files() -> None:
    """As many as the system lets us: a database takes up to seven.

    Only here: the programs of a node's user, who may count on a low limit, keep theirs.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _serve(requests: socket.socket, preload: Sequence[str]) -> int:
    lifeline.make()
    # A terminal's Ctrl-C reaches the whole group; the supervisor alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    gc.disable()  # nothing of an import is garbage
    for module in preload:
        importlib.import_module(module)
    gc.enable()
    gc.collect()
    gc.freeze()  # or every child's first collection would copy every shared page
    family = _Family([requests.fileno(), wake_read, wake_write])
    waiting = select.poll()
    for fd in (requests.fileno(), wake_read):
        waiting.register(fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in waiting.poll()]
        if requests.fileno() in ready:
            data = requests.recv(MAX_DATAGRAM)
            if not data:
                break
            kind, data = data[:1], data[1:]
            if kind == _RELEASE:
                family.release(int(data))
            else:
                report: Report
                try:
                    pid = family.start(data, held=kind == _HOLD, outlives=kind == _OUTLIVE)
                    report = Started(pid)
                except OSError as error:
                    report = Refused(str(error))
                requests.send(msgspec.json.encode(report))
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, 4096)
        for exited in family.ended():
            requests.send(msgspec.json.encode(exited))
    family.kill()
    return 0


class _Family:
    """The nursery's children, those included that may not begin yet."""

    def __init__(self, own_fds: list[int]) -> None:
        """`own_fds` are the nursery's alone."""
        self._own_fds = own_fds
        self._children: set[int] = set()
        self._survivors: set[int] = set()
        self._held: dict[int, socket.socket] = {}

    def start(self, data: bytes, *, held: bool, outlives: bool) -> int:
        """A child that runs the pickled factory; its pid."""
        if not held:
            pid = self._fork(data, _nothing)
            if outlives:
                self._survivors.add(pid)
            return pid
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = self._fork(data, lambda: _wait(theirs), ours.fileno())
            except OSError:
                ours.close()
                raise
        self._held[pid] = ours
        return pid

    def release(self, pid: int) -> None:
        channel = self._held.pop(pid, None)
        if channel is not None:
            with channel, contextlib.suppress(OSError):  # it has died
                channel.send(b"!")

    def _fork(self, data: bytes, wait: Callable[[], None], *other_fds: int) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            held = [channel.fileno() for channel in self._held.values()]
            for fd in (*self._own_fds, *other_fds, *held):
                os.close(fd)
            _become(parent, data, wait)
        self._children.add(pid)
        return pid

    def ended(self) -> list[Exited]:
        found = []
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            self._children.discard(pid)
            self._survivors.discard(pid)
            self.release(pid)
            found.append(Exited(pid, os.waitstatus_to_exitcode(status)))
        return found

    def kill(self) -> None:
        """End all; those who outlive the others are told of it, and have their moment."""
        mortal = self._children - self._survivors
        _signal(mortal, signal.SIGKILL)
        for pid in mortal:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        lifeline.let_go()
        _signal(self._survivors, lifeline.ORPHANED)
        end_s = time.monotonic() + _ENDS_S
        while self._survivors and time.monotonic() < end_s:
            self.ended()
            time.sleep(_LOOK_S)
        _signal(self._survivors, signal.SIGKILL)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _nothing() -> None:
    """Who is not held begins at once."""


def _wait(channel: socket.socket) -> None:
    with channel:
        if not channel.recv(1):
            os._exit(1)  # the nursery has gone


def _become(parent: int, data: bytes, wait: Callable[[], None]) -> None:
    status = 1
    try:
        lifeline.die_with_parent(parent)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.unfreeze()
        status = int(cloudpickle.loads(data)(wait))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - nothing may return into the nursery's loop
        traceback.print_exc()
    finally:
        os._exit(status)
