"""The supervisor: starts the actors of a node, watches over them, restarts them, drains and stops
them.

Owns the node's lock, its epoch, and the application's command. Does no work of an actor itself.
Always true: an actor it has not heard for `hung-after` is killed, one that ended is started again
after a pause, and one that keeps crashing ends the node with one line that says why.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
from setproctitle import setproctitle

from litemq import config as configuration
from litemq import log
from litemq.actors.layout import Layout
from litemq.actors.nursery import Exited, Nursery, Started
from litemq.actors.reactor import Reactor
from litemq.actors.restarts import Restarts
from litemq.actors.roles import Factory, actors_of
from litemq.config import Config
from litemq.errors import ConfigError, LiteMQError
from litemq.fs import mount
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all

WATCH_S = 0.25
LOCK_TRIES = 5
LOCK_PAUSE_S = 0.02
#: a step of the shutdown that takes longer is given up
DRAIN_STEP_S = 5.0
STOP_S = 5.0
#: an actor that has not given its first sign of life is waited for at least this long
START_S = 60.0


@dataclass(slots=True)
class _Actor:
    """One actor as the supervisor sees it."""

    name: str
    factory: Factory
    restarts: Restarts
    pid: int = 0
    state: str = "starting"
    heard_s: float = field(default_factory=time.monotonic)
    alive: m.ActorAlive | None = None


class Supervisor:
    """One node."""

    def __init__(self, config: Config, command: Sequence[str]) -> None:
        self._config = config
        self._command = list(command)
        self._layout = Layout(config.node.data_dir)
        self._endpoints = Endpoints(config.run_dir)
        self._primary = config.is_primary
        self._epoch = 0
        self._reactor = Reactor()
        self._log = log.get()
        self._nursery: Nursery | None = None
        self._actors: dict[str, _Actor] = {}
        self._starting: deque[str] = deque()
        self._application: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._draining = False
        self._step = 0
        self._exit_code = 0
        self._failure: LiteMQError | None = None

    # --- life

    def run(self) -> int:
        """Run the node until it is told to stop; the exit code.

        Raises LiteMQError when it can't go on.
        """
        config = self._config
        configuration.check_paths(config)
        lock = self._take_lock()
        try:
            configuration.check_ports(config)
            configuration.prepare_directories(config)
            self._layout.create()
            setproctitle(f"litemq: supervisor {config.node.name}")
            log.configure(
                config.log, config.node.data_dir, config.node.name, "supervisor", stderr=True
            )
            if self._primary:
                self._epoch = self._layout.read_epoch() + 1
                self._layout.write_epoch(self._epoch)
            self._prepare_mount()
            self._nursery = Nursery.open(f"litemq: nursery {config.node.name}")
            self._serve()
        finally:
            if self._nursery is not None:
                self._nursery.close()
                if config.mount.fuse:
                    mount.clean_stale_mount(str(config.mount.path))
            os.close(lock)
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    def _prepare_mount(self) -> None:
        path = str(self._config.mount.path)
        if not self._config.mount.fuse:
            mount.clean_stale_mount(path)
            self._config.mount.path.mkdir(mode=0o755, exist_ok=True)
            return
        mount.detach_stale_fuse(path)
        if not mount.is_mounted(path):  # else a killed node's guard is still there, as it should
            mount.prepare_mountpoint(path)
            mount.guard(path)

    def _take_lock(self) -> int:
        directory = self._config.node.data_dir
        if not directory.exists():
            configuration.check_ports(self._config)
            configuration.prepare_directories(self._config)
        try:
            lock = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{self._config.path}: [node] data-dir: {self._layout.lock} can't be opened: "
                f"{error.strerror}"
            ) from error
        for _ in range(LOCK_TRIES):
            # commands that look whether a node runs hold the lock for some microseconds
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            time.sleep(LOCK_PAUSE_S)
        os.close(lock)
        raise ConfigError(
            f"{self._config.path}: [node] data-dir: {directory} is in use by a running node"
        )

    def _serve(self) -> None:
        assert self._nursery is not None
        control = Receiver.bind(self._endpoints.control)
        for name, factory in actors_of(
            self._config, primary=self._primary, epoch=self._epoch
        ).items():
            limits = self._config.supervisor
            restarts = Restarts(limits.crash_limit, limits.crash_window_s)
            self._actors[name] = _Actor(name, factory, restarts)
            self._start(name)
        self._log.info("node starts", role=self._role, epoch=self._epoch)
        reactor = self._reactor
        reactor.on_message(control, self._handle)
        reactor.on_readable(self._nursery.fileno(), self._children)
        reactor.every(WATCH_S, self._watch)
        try:
            reactor.run(
                {
                    signal.SIGTERM: self._signalled,
                    signal.SIGINT: self._signalled,
                    signal.SIGCHLD: lambda _: None,
                    signal.SIGHUP: self._forward,
                }
            )
        finally:
            self._kill_application()
            close_all()

    @property
    def _role(self) -> str:
        return "primary" if self._primary else "replica"

    # --- children

    def _start(self, name: str) -> None:
        assert self._nursery is not None
        if self._step > 1:
            return
        actor = self._actors[name]
        actor.state = "starting"
        actor.heard_s = time.monotonic()
        self._starting.append(name)
        self._nursery.start(actor.factory)

    def _children(self) -> None:
        assert self._nursery is not None
        try:
            reports = self._nursery.reports()
        except LiteMQError as error:
            self._fail(error)
            return
        for report in reports:
            match report:
                case Started(pid=pid):
                    self._actors[self._starting.popleft()].pid = pid
                case Exited(pid=pid, code=code):
                    for actor in self._actors.values():
                        if actor.pid == pid:
                            self._ended(actor, code)

    def _ended(self, actor: _Actor, code: int) -> None:
        actor.pid = 0
        actor.alive = None
        self._look_ready()
        if self._step > 1:
            actor.state = "stopped"
            self._stop_actors()
            return
        pause_s = actor.restarts.crashed(time.monotonic())
        if pause_s is None:
            self._fail(
                LiteMQError(
                    f"{actor.name} keeps crashing ({actor.restarts.limit} times within "
                    f"{self._config.supervisor.crash_window_s:.0f} s); "
                    "`litemq tail --level error` tells why"
                )
            )
            return
        actor.state = "restarting"
        self._log.warning(
            "actor ended; starting it again", ended=actor.name, code=code, pause_s=pause_s
        )
        self._reactor.later(pause_s, lambda: self._start(actor.name))

    def _fail(self, error: LiteMQError) -> None:
        if self._failure is None:
            self._failure = error
            self._log.error("node ends", reason=str(error))
        self._reactor.stop()

    def _watch(self) -> None:
        now = time.monotonic()
        for actor in self._actors.values():
            patience_s = self._config.supervisor.hung_after_s
            if actor.alive is None:  # a cold disk can take its time over the imports
                patience_s = max(patience_s, START_S)
            if actor.pid and now - actor.heard_s > patience_s:
                self._log.warning("actor gives no sign of life; killed", hung=actor.name)
                actor.heard_s = now
                _kill(actor.pid, signal.SIGKILL)
        application = self._application
        if application is not None and application.poll() is not None and not self._draining:
            self._exit_code = _exit_code(application.returncode)
            self._log.info("the command ended", code=self._exit_code)
            self._drain()

    # --- messages

    def _handle(self, message: m.Message, _payload: list[bytes]) -> None:
        match message:
            case m.ActorAlive(actor=name, pid=pid):
                actor = self._actors.get(name)
                if actor is not None and (actor.pid in (0, pid)):
                    actor.alive = message
                    actor.heard_s = time.monotonic()
                    if actor.pid:
                        actor.state = "running" if message.ready else "starting"
                    self._look_ready()
            case m.AskStatus(request=request, reply_to=reply_to):
                reply = Sender(reply_to)
                reply.send(self._status(request))
                reply.close()
            case m.WritesClosed() if self._draining:
                self._drain_step(1)
            case m.BarrierReached() if self._draining:
                self._drain_step(2)
            case m.ReplicasDrained() if self._draining:
                self._drain_step(3)
            case _:
                pass

    def _look_ready(self) -> None:
        ready = all(
            actor.alive is not None and actor.alive.ready for actor in self._actors.values()
        )
        if ready and not self._ready:
            self._log.info("node is ready", role=self._role, path=str(self._config.mount.path))
        self._ready = ready
        if ready and self._command and self._application is None and not self._draining:
            self._start_application()

    def _start_application(self) -> None:
        try:
            self._application = subprocess.Popen(self._command, cwd=os.getcwd())
        except OSError as error:
            self._fail(LiteMQError(f"can't run {self._command[0]}: {error.strerror}"))
            return
        self._log.info("command started", command=self._command[0], pid=self._application.pid)

    def _status(self, request: int) -> m.NodeStatus:
        databases: list[m.DatabaseStatus] = []
        replicas: list[m.ReplicaStatus] = []
        epoch, primary = self._epoch, self._config.node.name if self._primary else ""
        for actor in self._actors.values():
            if actor.alive is not None:
                databases = actor.alive.databases or databases
                replicas = actor.alive.replicas or replicas
                epoch = max(epoch, actor.alive.epoch)
                primary = actor.alive.primary or primary
        return m.NodeStatus(
            request=request,
            node=self._config.node.name,
            role=self._role,
            epoch=epoch,
            primary=f"{primary or '?'} {self._config.election.primary}",
            ready=self._ready and not self._draining,
            databases=databases,
            replicas=replicas,
            actors=[
                m.ActorStatus("supervisor", os.getpid(), "running", 0, _rss(os.getpid())),
                *(
                    m.ActorStatus(
                        actor.name, actor.pid, actor.state, actor.restarts.count, _rss(actor.pid)
                    )
                    for actor in self._actors.values()
                ),
            ],
        )

    # --- the end

    def _signalled(self, number: int) -> None:
        if self._draining:
            return
        self._log.info("node stops", signal=signal.Signals(number).name)
        if self._application is not None and self._application.poll() is None:
            self._forward(number)
            return  # its end brings the node's
        self._drain()

    def _forward(self, number: int) -> None:
        if self._application is not None and self._application.poll() is None:
            self._application.send_signal(number)

    def _kill_application(self) -> None:
        if self._application is not None and self._application.poll() is None:
            self._application.kill()
            self._application.wait()

    def _drain(self) -> None:
        """Close the mount to writers, have everything logged, have the replicas catch up.

        Then stop the actors.
        """
        self._draining = True
        if self._primary and self._ready:
            self._send(self._endpoints.gates, m.CloseWrites(self._endpoints.control))
            self._deadline(0)
        else:
            self._drain_step(3)

    def _drain_step(self, done: int) -> None:
        if done == 1 and self._step == 0:
            self._step = 1
            self._send(self._endpoints.capture, m.Barrier(1, self._endpoints.control))
            self._deadline(1)
        elif done == 2 and self._step == 1:
            self._step = 1
            deadline_ms = int(DRAIN_STEP_S * 1000)
            self._send(
                self._endpoints.records, m.DrainReplicas(self._endpoints.control, deadline_ms)
            )
            self._reactor.later(DRAIN_STEP_S + 1, lambda: self._drain_step(3))
        elif done == 3 and self._step < 2:
            self._step = 2
            self._stop_actors()
            self._reactor.later(STOP_S, self._kill_actors)

    def _deadline(self, step: int) -> None:
        def late() -> None:
            if self._step == step:
                self._log.warning("a step of the shutdown takes too long; going on", step=step)
                self._drain_step(3)

        self._reactor.later(DRAIN_STEP_S, late)

    def _stop_actors(self) -> None:
        """SIGTERM one actor after the other, in order; the next when one has ended."""
        for actor in self._actors.values():
            if actor.pid:
                if actor.state != "stopping":
                    actor.state = "stopping"
                    _kill(actor.pid, signal.SIGTERM)
                return
        self._log.info("node stopped")
        self._reactor.stop()

    def _kill_actors(self) -> None:
        for actor in self._actors.values():
            if actor.pid:
                self._log.warning("actor does not stop; killed", hung=actor.name)
                _kill(actor.pid, signal.SIGKILL)
        self._reactor.later(1.0, self._reactor.stop)

    def _send(self, endpoint: str, message: m.Message) -> None:
        sender = Sender(endpoint)
        sender.send(message)
        sender.close()


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0


def _exit_code(returncode: int) -> int:
    """As a shell tells it: 128 plus the signal."""
    return returncode if returncode >= 0 else 128 - returncode
