"""The application's command, as `litemq up -- COMMAND` runs it: started, signalled, restarted.

Part of the supervisor. The command is started when the node is ready, gets its signals, and its end
is the node's, except where `[app] on-role-change` has it stopped and started again. Always true:
nothing of a command that is restarted runs beside its successor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

from litemq import log
from litemq.actors import process_limits
from litemq.actors.crew import STOP_S
from litemq.actors.reactor import Reactor
from litemq.errors import LiteMQError


class AppCommand:
    """The command; nothing at all if there are no words."""

    def __init__(
        self,
        words: Sequence[str],
        on_role_change: str,
        reactor: Reactor,
        *,
        stopped: Callable[[], None],
        ended: Callable[[int], None],
        failed: Callable[[LiteMQError], None],
    ) -> None:
        """`stopped`: it may be started again, if the node is ready. `ended` gets the exit code."""
        self._words = list(words)
        self._policy = on_role_change
        self._reactor = reactor
        self._stopped = stopped
        self._ended = ended
        self._failed = failed
        self._log = log.get()
        self._process: subprocess.Popen[bytes] | None = None
        #: to be started as soon as the node is ready
        self._due = bool(words)
        #: the system had no process for it
        self._refused = False
        #: a change of role is under way that will restart it
        self._changing = False
        #: told to end, to be started again
        self._restarting = False
        #: all that was left of it has got a SIGKILL
        self._killed = False
        #: told to end for good: its end is the node's, whatever the role
        self._told = False
        #: the node ends without it
        self._node_ends = False

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- coming and going

    def node_is_ready(self) -> None:
        """Start it if it is due; may be said again and again."""
        if not self._due or self._told or self._node_ends:
            return
        self._due = False
        # A group of its own where all that it has started must go with it. Otherwise not: the
        # command may want the terminal.
        group = 0 if self._policy == "restart" else None
        try:
            self._process = subprocess.Popen(self._words, cwd=os.getcwd(), process_group=group)
        except OSError as error:
            if error.errno in process_limits.USED_UP:
                self._no_process(error)
                return
            self._failed(LiteMQError(f"can't run {self._words[0]}: {error.strerror}"))
            return
        self._refused = False
        self._log.info("command started", command=self._words[0], pid=self._process.pid)

    def _no_process(self, error: OSError) -> None:
        """Others have used them up: the command stays due."""
        if not self._refused:
            self._log.warning(
                "no process for the command; trying again", reason=str(error.strerror),
                raise_the_limit=process_limits.reached(),
            )  # fmt: skip
        self._refused = self._due = True
        self._reactor.later(process_limits.PAUSE_S, self._stopped)

    def watch(self) -> None:
        """Now and then: see its end, and whose that is."""
        process = self._process
        if process is None or process.poll() is None or self._node_ends:
            return
        if self._changing and not self._told and not self._restarting:
            self._restart(process)  # what ends by a change of role was going to be restarted
        if not self._restarting:
            self._process = None
            self._ended(_exit_code(process.returncode))
        elif self._killed or not _group_lives(process):
            self._process, self._restarting, self._due = None, False, True
            self._log.info("command stopped, to be restarted", pid=process.pid)
            self._stopped()

    def end_of_node(self) -> None:
        """The node ends: it is not started any more, and its end tells nothing."""
        self._node_ends = True

    def kill(self) -> None:
        """SIGKILL for what still runs; waits until the command is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._restarting:
            _signal_group(process, signal.SIGKILL)
        if process.poll() is None:
            process.kill()
            process.wait()

    # --- signals

    def forward(self, number: int) -> None:
        """A signal that the node got is the command's."""
        if self._process is not None and self._running:
            self._process.send_signal(number)

    def told_to_stop(self, number: int) -> bool:
        """The node was told to end: whether the command runs. It has got the signal then.

        Its end will be the node's.
        """
        self._told = True
        if not self._running:
            return False
        self._restarting = False
        self.forward(number)
        return True

    # --- changes of role

    def role_changes(self) -> None:
        """A change begins: who can't stand it may end before it is done."""
        self._changing = self._policy == "restart"

    def role_changed(self, *, done: bool) -> None:
        """The change has ended; not `done`: the role is the same as before."""
        process = self._process
        self.watch()
        self._changing = False
        if process is None or process.poll() is not None:
            return
        if not done or self._told or self._node_ends:
            return
        if self._policy == "SIGHUP":
            self._log.info("command gets SIGHUP", pid=process.pid)
            process.send_signal(signal.SIGHUP)
        elif self._policy == "restart" and not self._restarting:
            self._restart(process)

    def _restart(self, process: subprocess.Popen[bytes]) -> None:
        self._restarting, self._killed = True, False
        self._log.info("command is restarted", pid=process.pid)
        _signal_group(process, signal.SIGTERM)

        def late() -> None:
            if self._restarting and self._process is process:
                self._log.warning("the command does not stop; killed", pid=process.pid)
                _signal_group(process, signal.SIGKILL)
                self._killed = True

        self._reactor.later(STOP_S, late)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """For the command and all that it has started, as far as they stayed in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it has changed its user
        return True
    return True


def _exit_code(returncode: int) -> int:
    """As a shell tells it: 128 plus the signal."""
    return returncode if returncode >= 0 else 128 - returncode
