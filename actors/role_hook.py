"""The hook: tells a user's function of this node's role, one call at a time, and waits for none.

Part of the supervisor. It keeps the loaded function as bytes and the process that runs it. Always
true: no call outlasts the limit; while one runs only the newest change waits; what the function
does or fails to do changes nothing in the node.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from litemq import log
from litemq.actors import process_limits
from litemq.actors.hook_process import HookProcess
from litemq.actors.reactor import Reactor
from litemq.actors.role_news import Calls, RoleNews
from litemq.config import Config
from litemq.hooks import RoleChanged
from litemq.transport import messages as m

#: of what one call prints so many lines are logged
MAX_LINES = 200
#: a function that prints more is read from so seldom, and waits for it
FLOOD_PAUSE_S = 0.05
#: as many reads as a full pipe takes
MAX_READS = 16
#: who lets go of its end is gone by then
ENDS_S = 0.02
#: when the node stops, a running call has this long
GRACE_S = 2.0


class RoleHook:
    """The function of `[election] on-change`, and who calls it when."""

    def __init__(self, config: Config, function: bytes, reactor: Reactor) -> None:
        assert config.on_change is not None
        self._file = config.on_change[0]
        self._config = config
        self._function = function
        self._reactor = reactor
        self._log = log.get()
        self._news = RoleNews(config.node.name, config.stream.listen)
        self._calls = Calls()
        self._number = 0
        self._process: HookProcess | None = None
        self._dying: list[HookProcess] = []
        #: those of the process's descriptors that the reactor looks at
        self._fds: set[int] = set()
        self._lines = 0
        self._stopping = False
        #: the system had no process for it
        self._refused = False
        self._then: Callable[[], None] | None = None

    # --- what happens to the node

    def serves(self, epoch: int, why: str) -> None:
        """The node is a primary and ready; may be said again and again."""
        self._tell(self._news.serves(epoch, why, _now_us()))

    def deposed(self, epoch: int, why: str) -> None:
        """The node is a primary no more."""
        self._tell(self._news.deposed(epoch, why, _now_us()))

    def heard(self, message: m.ActorAlive) -> None:
        """An actor of a replica has spoken; the one that knows the primary names it."""
        knows = "election_watcher" if self._config.is_elected else "replica_applier"
        if message.actor != knows or not message.primary:
            return
        name, _, address = message.primary.partition(" ")
        address = self._config.election.primary or address
        self._tell(self._news.follows(name, address, message.epoch, _now_us()))

    def _tell(self, change: RoleChanged | None) -> None:
        if change is None or self._stopping:
            return
        overtaken = self._calls.offer(change)
        if overtaken is not None:
            self._log.info(
                "the hook was too slow for a change", role=overtaken.role, epoch=overtaken.epoch,
                primary=overtaken.primary,
            )  # fmt: skip
        if self._calls.running is change:
            self._begin(change)

    # --- calls

    def _begin(self, change: RoleChanged) -> None:
        self._number, number = self._number + 1, self._number + 1
        self._lines = 0
        if not self._refused:
            self._log.info(
                "hook called", role=change.role, epoch=change.epoch, primary=change.primary
            )
        try:
            if self._process is None:
                self._process = self._started()
            self._process.call(change)
        except OSError as error:
            if error.errno in process_limits.USED_UP and self._process is None:
                self._no_process(change, error)
                return
            self._log.warning("the hook can't be called", reason=str(error.strerror))
            self._drop_process()
            self._done()
            return
        limit_s = self._config.election.on_change_limit_s
        self._reactor.later(limit_s, lambda: self._late(number, limit_s))

    def _no_process(self, change: RoleChanged, error: OSError) -> None:
        """Others have used them up: again, and what is newer takes its place."""
        if not self._refused:
            self._log.warning(
                "no process for the hook; trying again", reason=str(error.strerror),
                raise_the_limit=process_limits.reached(),
            )  # fmt: skip
        self._refused = True

        def again() -> None:
            if self._calls.running is not change:
                return
            if self._stopping or self._calls.waiting is not None:
                self._done()
            else:
                self._begin(change)

        self._reactor.later(process_limits.PAUSE_S, again)

    def _started(self) -> HookProcess:
        process = HookProcess(self._function, self._file, self._config.node.name)
        self._refused = False
        self._look_at(process.channel_fd, lambda: self._answered(process))
        self._look_at(process.printed_fd, lambda: self._printed(process))
        return process

    def _look_at(self, fd: int, call: Callable[[], None]) -> None:
        self._fds.add(fd)
        self._reactor.on_readable(fd, call)

    def _forget(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            self._reactor.forget(fd)

    def _answered(self, process: HookProcess) -> None:
        try:
            outcome = process.outcome()
        except EOFError:  # it ends; how, can be told in a moment
            self._forget(process.channel_fd)
            self._reactor.later(ENDS_S, self.watch)
            return
        if outcome is None or self._calls.running is None:
            return
        self._read_all(process)  # what it printed stands above how it ended
        if outcome.reason:
            self._log.warning("the hook failed", reason=outcome.reason, where=outcome.where)
        else:
            self._log.info("hook returned", role=self._calls.running.role)
        self._done()

    def _done(self) -> None:
        if self._lines > MAX_LINES:
            self._log.info("the hook printed more", lines_left_out=self._lines - MAX_LINES)
        following = self._calls.done()
        if following is not None:
            self._begin(following)
        elif self._then is not None:
            self._finish()

    def _late(self, number: int, limit_s: float) -> None:
        if self._calls.running is None or self._number != number:
            return
        self._log.warning("the hook does not return; killed", limit_s=limit_s)
        self._drop_process()
        self._done()

    def _drop_process(self) -> None:
        """Without waiting: a process that hangs in the kernel is no reason to."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        self._forget(process.channel_fd)
        self._forget(process.printed_fd)
        self._read_all(process)
        process.close()
        self._dying.append(process)

    def watch(self) -> None:
        """Now and then: processes that ended are seen, also if others hold their descriptors."""
        self._dying = [each for each in self._dying if each.code is None]
        process = self._process
        if process is None or process.code is None:
            return
        self._log.warning("the hook's process ended", code=process.code)
        self._drop_process()
        if self._calls.running is not None:
            self._done()

    # --- what it prints

    def _printed(self, process: HookProcess) -> None:
        lines = process.read_printed()
        flood = self._lines > MAX_LINES
        self._log_lines(lines or [])
        if lines is None or flood:
            self._forget(process.printed_fd)
        if lines is not None and flood:
            self._reactor.later(FLOOD_PAUSE_S, lambda: self._read_on(process))

    def _read_all(self, process: HookProcess) -> None:
        """What is in the pipe now, whoever still writes there."""
        for _ in range(MAX_READS):
            self._log_lines(process.read_printed() or [])

    def _read_on(self, process: HookProcess) -> None:
        if process is self._process:
            self._look_at(process.printed_fd, lambda: self._printed(process))

    def _log_lines(self, lines: list[str]) -> None:
        for line in lines:
            self._lines += 1
            if self._lines <= MAX_LINES:
                self._log.info("hook printed", text=line)

    # --- the end

    def stop(self) -> None:
        """The node stops: a call that runs has a moment, and no new change is told."""
        self._stopping = True

        def late() -> None:
            if self._calls.running is not None:
                self._calls.waiting = None
                self._late(self._number, GRACE_S)

        self._reactor.later(GRACE_S, late)

    def when_idle(self, then: Callable[[], None]) -> None:
        """Call `then` when no call runs: after `stop`, that is within the grace."""
        self._then = then
        if self._calls.running is None:
            self._finish()

    def _finish(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()

    def close(self) -> None:
        """Kill the process; nothing of it remains."""
        self._stopping = True
        self._drop_process()
        for process in self._dying:
            process.reap()


def _now_us() -> int:
    return time.time_ns() // 1000
