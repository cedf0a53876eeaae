"""The actors of a node: started, heard of, restarted, stopped.

Owns their processes through the nursery. Does not know what they do, nor what roles there are.
Always true: an actor that has not been heard for `hung-after` is killed, unless it waits for a
disk or a CPU, or the node itself was not there to hear; one that ended by itself is started again
after a pause, and one that keeps crashing is reported once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from litemq import log
from litemq.actors import lifeline, proc, process_limits
from litemq.actors.child import NO_THREAD
from litemq.actors.nursery import Exited, Factory, Nursery, Refused, Started
from litemq.actors.reactor import Reactor
from litemq.actors.restarts import Restarts
from litemq.actors.silence import Silence, Ticks
from litemq.config import Config
from litemq.errors import LiteMQError
from litemq.transport import messages as m

#: an actor that does not end after SIGTERM is killed after this
STOP_S = 5.0
#: an actor that has not given its first sign of life is waited for at least this long
START_S = 60.0
#: the system had no process for an actor, or no thread, and is asked again after a pause
NO_PROCESS = "no process"


@dataclass(slots=True)
class Actor:
    """One actor as the supervisor sees it."""

    name: str
    factory: Factory
    restarts: Restarts
    pid: int = 0
    state: str = "starting"
    silence: Silence = field(default_factory=Silence)
    alive: m.ActorAlive | None = None
    leaving: bool = False
    #: the process that was killed for its silence, and may take its time to end
    killed: int = 0
    #: it is made, and may not work yet
    held: bool = False

    @property
    def ready(self) -> bool:
        return self.alive is not None and self.alive.ready


class Crew:
    """All actors of the node, in the order of their start."""

    def __init__(
        self,
        config: Config,
        nursery: Nursery,
        reactor: Reactor,
        *,
        watch_s: float,
        changed: Callable[[], None],
        failed: Callable[[LiteMQError], None],
    ) -> None:
        """`watch_s`: how often `watch` is called. `changed` is told when an actor has ended or was
        heard, `failed` when one is given up.
        """
        self._limits = config.supervisor
        self._ticks = Ticks(watch_s)
        self._nursery = nursery
        self._reactor = reactor
        self._changed = changed
        self._failed = failed
        self._log = log.get()
        #: name, and whether the process is to be held
        self._starting: deque[tuple[str, bool]] = deque()
        self._then: Callable[[], None] | None = None
        self._number: int = signal.SIGTERM
        self.actors: dict[str, Actor] = {}

    @property
    def ready(self) -> bool:
        return all(actor.ready for actor in self.actors.values())

    def incarnation(self, name: str) -> tuple[int, int]:
        """Another one as soon as that actor was started again."""
        actor = self.actors.get(name)
        return (0, 0) if actor is None else (actor.pid, actor.restarts.count)

    # --- coming and going

    def staff(self, factories: Mapping[str, Factory], *, held: bool = False) -> None:
        """Start those that are not there; the others are restarted with the new factory only.

        Who is `held` works from `release` on.
        """
        for name, factory in factories.items():
            actor = self.actors.get(name)
            if actor is None:
                restarts = Restarts(self._limits.crash_limit, self._limits.crash_window_s)
                self.actors[name] = Actor(name, factory, restarts, held=held)
                self._start(name)
            else:
                actor.factory = factory

    def release(self) -> None:
        """Whoever is held may work."""
        for actor in self.actors.values():
            if actor.held:
                actor.held = False
                if actor.pid:  # else when it is there
                    self._nursery.release(actor.pid)

    def dismiss(
        self, names: Iterable[str], then: Callable[[], None], *, number: int = signal.SIGTERM
    ) -> None:
        """Stop these for good, one after the other in the order of their start; then call.

        `number` is the signal that they are told by.
        """
        for name in names:
            self.actors[name].leaving = True
        self._then, self._number = then, number
        self._stop_next()

    def _start(self, name: str) -> None:
        actor = self.actors.get(name)
        if actor is None or actor.leaving:
            return
        if actor.state != NO_PROCESS:
            actor.state = "starting"
        actor.silence = Silence()
        self._starting.append((name, actor.held))
        outlives = name == lifeline.SURVIVOR
        self._nursery.start(actor.factory, held=actor.held, outlives=outlives)

    def _stop_next(self) -> None:
        for actor in list(self.actors.values()):
            if not actor.leaving:
                continue
            if not actor.pid and actor.name not in [name for name, _ in self._starting]:
                del self.actors[actor.name]
                continue
            if actor.pid and actor.state != "stopping":
                actor.state = "stopping"
                kill(actor.pid, self._number)
                self._reactor.later(STOP_S, partial(self._too_late, actor, actor.pid))
            return
        then, self._then = self._then, None
        if then is not None:
            then()

    def _too_late(self, actor: Actor, pid: int) -> None:
        if actor.pid == pid:
            self._log.warning("actor does not stop; killed", hung=actor.name)
            kill(pid, signal.SIGKILL)

    # --- what is heard of them

    def collect(self) -> None:
        """Take the nursery's reports. Raises LiteMQError when it is gone."""
        for report in self._nursery.reports():
            match report:
                case Started(pid=pid):
                    name, held = self._starting.popleft()
                    actor = self.actors.get(name)
                    if actor is None:
                        kill(pid, signal.SIGKILL)
                        continue
                    actor.pid = pid
                    if actor.state != NO_PROCESS:  # until it has its threads, too
                        actor.state = "starting"
                    if held and not actor.held:
                        self._nursery.release(pid)
                    if actor.leaving:
                        self._stop_next()
                case Refused(reason=reason):
                    name, _ = self._starting.popleft()
                    self._refused(name, reason)
                case Exited(pid=pid, code=code):
                    for actor in list(self.actors.values()):
                        if actor.pid == pid:
                            self._ended(actor, code)

    def _refused(self, name: str, reason: str) -> None:
        """There is no process for it, or no thread: again, for as long as it takes."""
        actor = self.actors.get(name)
        if actor is None:
            return
        if actor.leaving:
            self._stop_next()
            return
        if actor.state != NO_PROCESS:
            self._log.warning(
                "no process or thread for an actor; trying again", refused=name, reason=reason,
                raise_the_limit=process_limits.reached(),
            )  # fmt: skip
        else:
            self._log.debug("still no process or thread", refused=name, reason=reason)
        actor.state = NO_PROCESS
        self._reactor.later(process_limits.PAUSE_S, lambda: self._start(name))

    def heard(self, message: m.ActorAlive) -> None:
        """A sign of life; of a process that is no more, it counts for nothing."""
        actor = self.actors.get(message.actor)
        if actor is None or actor.pid not in (0, message.pid):
            return
        actor.alive = message
        actor.silence.broken()
        if actor.pid and actor.state != "stopping":
            actor.state = "running" if message.ready else "starting"
        self._changed()

    def _ended(self, actor: Actor, code: int) -> None:
        unheard = actor.alive is None
        actor.pid = 0
        actor.alive = None
        self._changed()
        if actor.leaving:
            self._stop_next()
            return
        if code == NO_THREAD or (code == -signal.SIGABRT and unheard and process_limits.near()):
            # ZeroMQ aborts where it gets no thread, though there was room a moment before
            self._refused(actor.name, "it gets no thread")
            return
        pause_s = actor.restarts.crashed(time.monotonic())
        if pause_s is None:
            self._failed(
                LiteMQError(
                    f"{actor.name} keeps crashing ({actor.restarts.limit} times within "
                    f"{self._limits.crash_window_s:.0f} s); "
                    "`litemq tail --level error` tells why"
                )
            )
            return
        actor.state = "restarting"
        self._log.warning(
            "actor ended; starting it again", ended=actor.name, code=code, pause_s=pause_s
        )
        self._reactor.later(pause_s, lambda: self._start(actor.name))

    def watch(self) -> None:
        """Kill what has not been heard for too long."""
        seen_s = self._ticks.passed(time.monotonic())
        for actor in self.actors.values():
            if not actor.pid or actor.killed == actor.pid:
                continue
            silent = actor.silence.seconds > 0.0
            actor.silence.goes_on(seen_s, proc.sample(actor.pid, silent=silent))
            patience_s = self._limits.hung_after_s
            if actor.alive is None:  # a cold disk can take its time over the imports
                patience_s = max(patience_s, START_S)
            if actor.silence.seconds > patience_s:
                stall = proc.look(actor.pid)
                if stall.by_disk:  # it could not even be killed, and will go on by itself
                    actor.silence.broken()
                    self._log.warning("actor waits for the disk", hung=actor.name, at=str(stall))
                    continue
                if not actor.silence.exceeds(patience_s):
                    continue
                actor.killed = actor.pid
                self._log.warning(
                    "actor gives no sign of life; killed", hung=actor.name, at=str(stall)
                )
                kill(actor.pid, signal.SIGKILL)

    def status(self) -> list[m.ActorStatus]:
        """A line for each, the supervisor first."""
        return [
            m.ActorStatus("supervisor", os.getpid(), "running", 0, proc.rss_bytes(os.getpid())),
            *(
                m.ActorStatus(
                    actor.name,
                    actor.pid,
                    actor.state,
                    actor.restarts.count,
                    proc.rss_bytes(actor.pid),
                )
                for actor in self.actors.values()
            ),
        ]


def kill(pid: int, number: int) -> None:
    """Send a signal, if the process is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
