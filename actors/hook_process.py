"""The process in which a hook's function runs: the supervisor's end of it, and its own `main`.

It is given the pickled function (an anonymous file), one change of role at a time (a socket pair
that no other process holds) and a pipe for what it prints. Neither end trusts the other to answer:
nothing here waits, and what comes back is data. Always true: the function is called by this process
alone, and anew by another one only after this one was killed or has ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from setproctitle import setproctitle

from litemq.actors import user_process
from litemq.actors.lifeline import die_with_parent
from litemq.actors.nursery import unpickle_function
from litemq.actors.user_error import described, place
from litemq.hooks import RoleChanged

#: one change or outcome at most (bytes)
MAX_DATAGRAM = 16 * 1024
#: this much of what was printed is read at a time; a longer line is cut there (bytes)
CHUNK_BYTES = 4096


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call has ended: empty, or what went wrong and where (`PATH:LINE`)."""

    reason: str = ""
    where: str = ""


_decode_outcome = msgspec.json.Decoder(Outcome).decode
_decode_change = msgspec.json.Decoder(RoleChanged).decode


class HookProcess:
    """The supervisor's end."""

    def __init__(self, function: bytes, file: Path, node: str) -> None:
        """Start it. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        printed, printing = os.pipe2(os.O_CLOEXEC)
        code = os.memfd_create("litemq-hook")
        try:
            with open(code, "wb", closefd=False) as out:
                out.write(function)
            inherited = [code, theirs.fileno()]
            words = [*map(str, inherited), str(os.getpid()), str(file), node]
            self._process: subprocess.Popen[bytes] = user_process.start(
                "litemq.actors.hook_process", words, fds=inherited, output=printing
            )
        except OSError:
            ours.close()
            os.close(printed)
            raise
        finally:
            theirs.close()
            os.close(printing)
            os.close(code)
        ours.setblocking(False)
        os.set_blocking(printed, False)
        self._channel = ours
        self._rest = b""
        self.printed_fd = printed

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def channel_fd(self) -> int:
        return self._channel.fileno()

    @property
    def code(self) -> int | None:
        """How it ended: exit code, or minus the signal; None while it runs."""
        return self._process.poll()

    def call(self, change: RoleChanged) -> None:
        """Have the function called. Raises OSError when the process is gone."""
        self._channel.send(msgspec.json.encode(change))

    def outcome(self) -> Outcome | None:
        """How the call ended; None when nothing has come. Raises EOFError when nothing will."""
        try:
            data = self._channel.recv(MAX_DATAGRAM)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        try:
            return _decode_outcome(data)
        except msgspec.DecodeError as error:  # the function has found the descriptor
            raise EOFError from error

    def read_printed(self) -> list[str] | None:
        """Lines that it has printed since, of one read; None when no more can come."""
        try:
            data = os.read(self.printed_fd, CHUNK_BYTES)
        except BlockingIOError:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or len(self._rest) >= CHUNK_BYTES):
            lines.append(self._rest)
            self._rest = b""
        if not data and not lines:
            return None
        return [line.decode(errors="backslashreplace") for line in lines]

    def kill(self) -> None:
        """SIGKILL for it and its children; it is not waited for."""
        user_process.kill(self._process)

    def close(self) -> None:
        """Let go of its descriptors."""
        self._channel.close()
        os.close(self.printed_fd)

    def reap(self) -> None:
        """Wait a moment for a killed one."""
        user_process.reap(self._process)


# --- in the hook's process


def main(words: Sequence[str]) -> int:
    """Call the function for every change that comes, until nobody sends any more."""
    code, channel_fd, parent = map(int, words[:3])
    file, node = words[3], words[4]
    die_with_parent(parent)
    setproctitle(f"litemq: hook {node}")
    os.set_inheritable(channel_fd, False)
    with open(code, "rb") as pickled:
        pickled.seek(0)
        data = pickled.read()
    sys.path.append(os.path.dirname(file))  # as in the loader
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    channel = socket.socket(fileno=channel_fd)
    function: Any = None
    while change := channel.recv(MAX_DATAGRAM):
        outcome = Outcome()
        try:
            function = function or unpickle_function(data)
            function(_decode_change(change))
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            outcome = Outcome(described(error), place(error, file))
        with contextlib.suppress(Exception):  # it may have closed or replaced it
            sys.stdout.flush()
        channel.send(msgspec.json.encode(outcome))
    return 0
