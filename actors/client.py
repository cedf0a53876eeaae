"""What a command asks a running node, and how it finds out whether there is one.

Owns a private reply endpoint for the time of one command. Never starts, stops or changes a node.
Always true: the node's lock file tells whether it runs, since the kernel lets go of it with the
process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from typing import Self, TypeVar

from litemq.actors.layout import Layout
from litemq.config import Config
from litemq.errors import LiteMQError, NotReadyError, NotRunningError
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender
from litemq.txlog.durable import storage_error

STATUS_TIMEOUT_S = 5.0
BARRIER_TIMEOUT_S = 30.0
#: a hand-over waits for the successor, and that for the lease
ELECTION_TIMEOUT_S = 20.0
_WAIT_MS = 100

A = TypeVar("A", bound=m.Message)


def is_running(config: Config) -> bool:
    """Whether a supervisor holds the data directory's lock."""
    try:
        lock = os.open(Layout(config.node.data_dir).lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise NotRunningError(
            f"{config.node.data_dir} belongs to somebody else; ask as that user"
        ) from error
    try:
        # Shared, so that two commands that look at the same moment do not take each other for a
        # node.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise storage_error(error, "lock", config.node.data_dir) from error
    finally:
        os.close(lock)
    return False


class NodeClient:
    """Questions to one running node, one at a time. Raises NotRunningError when there is none."""

    def __init__(self, config: Config) -> None:
        self._config = config
        if not is_running(config):
            raise NotRunningError(
                f"node {config.node.name} is not running; "
                f"start it with `litemq up --config {config.path}`"
            )
        self._endpoints = Endpoints(config.run_dir)
        self._reply_to = self._endpoints.reply(f"{os.getpid()}-{secrets.token_hex(3)}")
        before = os.umask(0)  # root asks a node of another user: the run directory is private
        try:
            self._receiver = Receiver.bind(self._reply_to)
        finally:
            os.umask(before)
        self._request = 0

    def status(self, timeout_s: float = STATUS_TIMEOUT_S) -> m.NodeStatus:
        """What the supervisor knows, at most a heartbeat old."""
        self._request += 1
        question = m.AskStatus(self._request, self._reply_to)
        answer = self._ask(self._endpoints.control, question, m.NodeStatus, timeout_s)
        assert isinstance(answer, m.NodeStatus)
        return answer

    @property
    def is_primary(self) -> bool:
        """Whether the node is the primary at this moment."""
        return self.status().role == "primary"

    def barrier(self, database: str = "", timeout_s: float = BARRIER_TIMEOUT_S) -> m.BarrierReached:
        """The heads of one database (of all when empty), once everything committed before is in the
        log.

        On a replica: what its readers see.
        """
        self._request += 1
        question = m.Barrier(self._request, self._reply_to, database)
        try:
            answer = self._ask(self._endpoints.capture, question, m.BarrierReached, timeout_s)
        except NotReadyError:
            if any(each.state == "stalled" for each in self.status().databases):
                raise NotReadyError(
                    "the log can't be appended to, so it does not hold all that is committed; "
                    f"`litemq tail --config {self._config.path}` tells why"
                ) from None
            raise
        assert isinstance(answer, m.BarrierReached)
        return answer

    def head(self, database: str) -> m.Head | None:
        """The head of one database behind a barrier; None when the log knows of none."""
        heads = self.barrier(database).heads
        return heads[0] if heads else None

    # --- the election

    def hand_over(self, target: str) -> str:
        """Have another node be the primary, `target` or the one furthest; "" or why not."""
        self._request += 1
        question = m.HandOver(self._request, self._reply_to, target)
        return self._ask_election(question, m.HandedOver).refused

    def take_over(self) -> str:
        """Have this node be the primary; "" or why not."""
        self._request += 1
        question = m.TakeOver(self._request, self._reply_to)
        return self._ask_election(question, m.HandedOver).refused

    def members(self) -> list[m.MemberStatus]:
        """All nodes that the lease service knows. Raises LiteMQError when it does not answer."""
        self._request += 1
        answer = self._ask_election(m.AskMembers(self._request, self._reply_to), m.Members)
        if answer.reason:
            raise LiteMQError(answer.reason)
        return answer.members

    def _ask_election(self, question: m.Message, kind: type[A]) -> A:
        if not self._config.is_elected:
            raise LiteMQError(
                f'{self._config.path}: [election] kind is "static": the primary is the one that is '
                "named there"
            )
        answer = self._ask(self._endpoints.election, question, kind, ELECTION_TIMEOUT_S)
        assert isinstance(answer, kind)
        return answer

    def _ask(
        self, endpoint: str, question: m.Message, kind: type[m.Message], timeout_s: float
    ) -> m.Message:
        sender = Sender(endpoint)
        try:
            sender.send(question)
            deadline_s = time.monotonic() + timeout_s
            while (now := time.monotonic()) < deadline_s:
                if not self._receiver.wait(min(_WAIT_MS, int((deadline_s - now) * 1000) + 1)):
                    if not is_running(self._config):
                        raise NotRunningError(f"node {self._config.node.name} has just ended")
                    continue
                for message, _ in self._receiver.drain():
                    if (
                        isinstance(message, kind)
                        and getattr(message, "request", 0) == self._request
                    ):
                        return message
        finally:
            sender.close(linger_ms=0)
        raise NotReadyError(
            f"node {self._config.node.name} is up, but does not answer; "
            f"`litemq tail --config {self._config.path}` tells more"
        )

    def close(self) -> None:
        self._receiver.close()
        # ZeroMQ leaves the name of the socket behind now and then
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._reply_to.removeprefix("ipc://"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
