"""The nursery: the process that every actor is forked from.

It is forked from the supervisor before that has a thread or a socket, so that actors may be forked
at any later time from a process that has neither; what it has imported, all actors share. It
receives actor factories from the supervisor over a socket pair that no other process holds. This is
the only module that unpickles, and it unpickles only what its own parent wrote. (Of a hook, that is
what its parent got from the process that loads it, and has not looked into.)

Always true: when the supervisor dies, however it dies, the nursery dies, and with it every actor.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

import cloudpickle
import msgspec
from setproctitle import setproctitle

from litemq.errors import LiteMQError

#: One request or report at most (bytes).
MAX_DATAGRAM = 128 * 1024
_PR_SET_PDEATHSIG = 1
#: a request for a child without a factory; no pickle begins like this
_PREPARE = b"prepare"
MAX_PREPARED = 2


class Started(msgspec.Struct, frozen=True, tag=True):
    """A child runs."""

    pid: int


class Exited(msgspec.Struct, frozen=True, tag=True):
    """A child ended: exit code, or minus the signal that killed it."""

    pid: int
    code: int


_decode_report = msgspec.json.Decoder(Started | Exited).decode


def die_with_parent(parent: int = 0) -> None:
    """Have the kernel kill this process when its parent is gone.

    A process that was not forked but started anew is told its parent's pid.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def pickle_by_value(function: Callable[..., object], modules: Iterable[ModuleType]) -> bytes:
    """The function, and whatever it uses of these modules, for a process that can't import them.

    Raises what pickling raises: anything.
    """
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    return bytes(cloudpickle.dumps(function))


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

        Call before any thread, ZeroMQ context or secret exists in this process.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                setproctitle(title)
                status = _serve(theirs, preload)
            finally:
                os._exit(status)
        theirs.close()
        return cls(ours, pid)

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, factory: Callable[[], int]) -> None:
        """Ask for a child that runs `factory` and exits with what it returns.

        `reports` tells its pid.
        """
        data = cloudpickle.dumps(factory)
        if len(data) > MAX_DATAGRAM:
            raise LiteMQError(f"an actor's factory takes {len(data)} bytes, {MAX_DATAGRAM} at most")
        self._socket.send(data)

    def prepare(self) -> None:
        """Have a child ready that waits for its factory: the next start need not wait for it."""
        self._socket.send(_PREPARE)

    def reports(self, timeout_s: float = 0.0) -> list[Started | Exited]:
        """What happened to children. Raises LiteMQError when the nursery itself is gone."""
        found: list[Started | Exited] = []
        while select.select([self._socket], [], [], 0.0 if found else timeout_s)[0]:
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


def _serve(requests: socket.socket, preload: Sequence[str]) -> int:
    die_with_parent()
    # A terminal's Ctrl-C reaches the whole group; the supervisor alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for module in preload:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or every child's first collection would copy every shared page
    family = _Family([requests.fileno(), wake_read, wake_write])
    while True:
        ready = select.select([requests.fileno(), wake_read], [], [])[0]
        if requests.fileno() in ready:
            data = requests.recv(MAX_DATAGRAM)
            if not data:
                break
            if data == _PREPARE:
                family.prepare()
            else:
                requests.send(msgspec.json.encode(Started(family.start(data))))
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, 4096)
        for exited in family.ended():
            requests.send(msgspec.json.encode(exited))
    family.kill()
    return 0


class _Family:
    """The nursery's children, those included that still wait for a factory."""

    def __init__(self, own_fds: list[int]) -> None:
        """`own_fds` are the nursery's alone."""
        self._own_fds = own_fds
        self._children: set[int] = set()
        self._prepared: list[tuple[int, socket.socket]] = []

    def prepare(self) -> None:
        """One more, unless there are as many as are ever started together."""
        if len(self._prepared) >= MAX_PREPARED:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = self._fork(lambda: theirs.recv(MAX_DATAGRAM), [ours.fileno()])
        theirs.close()
        self._prepared.append((pid, ours))

    def start(self, data: bytes) -> int:
        """A child that runs this factory; its pid."""
        while self._prepared:
            pid, channel = self._prepared.pop(0)
            with channel, contextlib.suppress(OSError):  # it has died
                channel.send(data)
                return pid
        return self._fork(lambda: data, [])

    def _fork(self, factory: Callable[[], bytes], others_fds: list[int]) -> int:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            fds = [channel.fileno() for _, channel in self._prepared]
            for fd in (*self._own_fds, *others_fds, *fds):
                os.close(fd)
            _become(factory)
        self._children.add(pid)
        return pid

    def ended(self) -> list[Exited]:
        found = []
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            self._children.discard(pid)
            found.append(Exited(pid, os.waitstatus_to_exitcode(status)))
        return found

    def kill(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _become(factory: Callable[[], bytes]) -> None:
    status = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.unfreeze()
        status = int(cloudpickle.loads(factory())())
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - nothing may return into the nursery's loop
        traceback.print_exc()
    finally:
        os._exit(status)
