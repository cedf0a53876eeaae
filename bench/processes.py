"""What a benchmark starts: processes that end with it, and the ports that they take.

Never looks for processes by name: a family is a process that was started here, and whatever that
has started.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import signal
import socket
import time
from collections.abc import Iterator

import psutil

from litemq.errors import LiteMQError

#: below what the kernel hands out by itself
_PORTS = range(15000, 32000, 10)
PORTS_PER_SERVICE = 3
_PR_SET_PDEATHSIG = 1
_END_S = 10.0
_LOOK_S = 0.005


def end_with_parent(number: int) -> None:
    """This process gets that signal when the one that started it is gone; over `exec`, too."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def free_port(taken: set[int]) -> int:
    """The first of three free ports on the loopback interface, none of `taken`, which it joins."""
    for port in random.sample(_PORTS, 200):
        if port in taken:
            continue
        with contextlib.ExitStack() as held:
            try:
                for number in range(port, port + PORTS_PER_SERVICE):
                    tried = held.enter_context(socket.socket())
                    tried.bind(("127.0.0.1", number))
            except OSError:
                continue
        taken.add(port)
        return port
    raise LiteMQError("no three free ports in a row on 127.0.0.1")


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants, itself first; empty if it is gone."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def signal_family(pid: int, number: int) -> list[psutil.Process]:
    """Send a signal to all of them, the first one first; who got it."""
    members = family(pid)
    for each in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)
    return members


def kill_family(pid: int) -> None:
    """kill -9 for all of them. Raises LiteMQError when one stays."""
    killed = signal_family(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + _END_S
    while left := [each.pid for each in killed if _lives(each)]:
        if time.monotonic() > deadline_s:
            raise LiteMQError(f"processes {left} can't be killed")
        time.sleep(_LOOK_S)


def _lives(process: psutil.Process) -> bool:
    """Not if only its parent has yet to hear of its end: orphans may have one that never asks."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM have no effect meanwhile: taking away what was started comes to its end.

    For the main thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt meanwhile, so that both end in the same tidy way."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
