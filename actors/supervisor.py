"""The supervisor: starts the actors of a node, watches over them, restarts them, drains and stops
them.

Owns the node's lock and its epoch; `app_command` and `role_hook` are parts of it. Does no work of
an actor itself.
Always true: an actor it has not heard for `hung-after` is killed, one that ended is started again
after a pause, and one that keeps crashing ends the node with one line that says why.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Sequence
from functools import partial

from setproctitle import setproctitle

from litemq import config_machine, log, thread_room
from litemq.actors import hook_loader, process_limits
from litemq.actors.app_command import AppCommand
from litemq.actors.crew import Crew
from litemq.actors.drain import Drain
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.actors.nursery import Nursery
from litemq.actors.orphans import Orphans
from litemq.actors.reactor import Reactor
from litemq.actors.role_change import PRIMARY_ONLY, RoleChange
from litemq.actors.role_hook import RoleHook
from litemq.actors.roles import actors_of, modules_of
from litemq.config import Config
from litemq.errors import ConfigError, LiteMQError, NoThreadError
from litemq.fs import mount
from litemq.fs.dead_mount import DeadMounts, Readers, end_reads
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender, close_all
from litemq.txlog.durable import storage_error

WATCH_S = 0.25
#: where there are only actors to watch over
CALM_WATCH_S = 1.0
#: the election watcher of a node that was killed keeps the lock for a second at most
LOCK_TRIES = 60
#: an address that is not there yet has so long to come, and is looked for so often (seconds)
ADDRESS_PATIENCE_S, ADDRESS_LOOK_S = 60.0, 0.5
LOCK_PAUSE_S = 0.02
#: of the supervisor: the nursery's process, the helper, ZeroMQ's two
THREADS = 4
#: handing over takes at most this long when the node stops
LEAVE_S = 8.0
ASK_AGAIN_S = 0.5
#: no replica has seen one like this
LARGEST_EPOCH = 1 << 62


class Supervisor:
    """One node."""

    def __init__(self, config: Config, command: Sequence[str]) -> None:
        self._config = config
        self._layout = Layout(config.node.data_dir)
        self._endpoints = Endpoints(config.run_dir)
        self._primary = config.is_primary
        self._epoch = 0
        self._reactor = Reactor()
        self._log = log.get()
        self._nursery: Nursery | None = None
        self._crew: Crew | None = None
        self._change: RoleChange | None = None
        #: the role that was asked for meanwhile
        self._wanted: m.ChangeRole | None = None
        self._why = "started"
        self._since_ms = time.time_ns() // 1_000_000
        self._app = AppCommand(
            command, config.app.on_role_change, self._reactor,
            stopped=self._look_ready, ended=self._command_ended, failed=self._fail,
        )  # fmt: skip
        self._hook: RoleHook | None = None
        self._orphans = Orphans()
        calm_s = min(CALM_WATCH_S, config.supervisor.hung_after_s / 4)
        alone = not command and config.on_change is None
        self._watch_s = max(WATCH_S, calm_s) if alone else WATCH_S
        #: the role is that of an earlier life, until the election has changed it
        self._provisional = False
        self._ready = False
        self._dead_mounts = DeadMounts(str(config.mount.path))
        self._drain = Drain(self._reactor, self._endpoints, send=self._send, done=self._drained)
        self._leaving = False
        self._exit_code = 0
        self._failure: LiteMQError | None = None

    # --- life

    def run(self) -> int:
        """Run the node until it is told to stop; the exit code.

        Raises LiteMQError when it can't go on.
        """
        config = self._config
        config_machine.check_paths(config)
        lock = self._take_lock()
        try:
            config_machine.check_ports(config)
            config_machine.prepare_directories(config)
            self._layout.create()
            hook = hook_loader.load(config) if config.on_change is not None else None
            setproctitle(f"litemq: supervisor {config.node.name}")
            log.configure(
                config.log, config.node.data_dir, config.node.name, "supervisor", stderr=True
            )
            self._wait_for_address()
            if hook is not None:
                self._hook = RoleHook(config, hook, self._reactor)
            self._take_role()
            self._prepare_mount()
            self._wait_for_threads()
            self._nursery = Nursery.open(f"litemq: nursery {config.node.name}", modules_of(config))
            self._serve()
        finally:
            if self._nursery is not None:
                self._nursery.close()
                if config.mount.fuse:
                    mount.clean_stale_mount(str(config.mount.path))
                    self._reads_ended(end_reads(self._dead_mounts.all()))
            os.close(lock)
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    def _wait_for_address(self) -> None:
        """A network may come up after the node does. Raises ConfigError when it takes too long."""
        end_s = time.monotonic() + ADDRESS_PATIENCE_S
        told = False
        while reason := config_machine.check_ports(self._config):
            if time.monotonic() >= end_s:
                raise ConfigError(f"{self._config.path}: [stream] listen: {reason}")
            if not told:
                told = True
                self._log.warning("waiting for the address to listen at", reason=reason)
            time.sleep(ADDRESS_LOOK_S)

    def _wait_for_threads(self) -> None:
        """Others may have used them up for a while. Raises NoThreadError when it takes too long."""
        end_s = time.monotonic() + ADDRESS_PATIENCE_S
        told = False
        while True:
            try:
                thread_room.check(THREADS)
                return
            except NoThreadError as error:
                if time.monotonic() >= end_s:
                    raise NoThreadError(f"{error} ({process_limits.reached()})") from error
                if not told:
                    told = True
                    self._log.warning(
                        "waiting for processes and threads", reason=str(error),
                        raise_the_limit=process_limits.reached(),
                    )  # fmt: skip
            time.sleep(ADDRESS_LOOK_S)

    def _take_role(self) -> None:
        """The role to begin with."""
        if self._config.is_elected:
            # Who died as a primary begins as one, without taking writes: what had been committed
            # and not yet logged belongs to that term. The election then makes it a replica.
            self._epoch = self._layout.read_term()
            self._primary = self._provisional = self._epoch > 0
        elif self._primary:
            self._epoch = self._layout.read_epoch() + 1
            self._layout.write_epoch(self._epoch)

    def _prepare_mount(self) -> None:
        path = str(self._config.mount.path)
        if not self._config.mount.fuse:
            mount.clean_stale_mount(path)
            self._config.mount.path.mkdir(mode=0o755, exist_ok=True)
            return
        self._dead_mounts.look()
        mount.detach_stale_fuse(path)
        if not mount.is_mounted(path):  # else a killed node's guard is still there, as it should
            mount.prepare_mountpoint(path)
            mount.guard(path)

    def _take_lock(self) -> int:
        directory = self._config.node.data_dir
        if not directory.exists():
            config_machine.check_ports(self._config)
            config_machine.prepare_directories(self._config)
        try:
            lock = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{self._config.path}: [node] data-dir: {self._layout.lock} can't be opened: "
                f"{error.strerror}"
            ) from error
        for _ in range(LOCK_TRIES):
            # commands that look whether a node runs hold the lock for some microseconds
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                pass
            except OSError as error:
                os.close(lock)
                raise storage_error(error, "lock", self._layout.lock) from error
            time.sleep(LOCK_PAUSE_S)
        os.close(lock)
        raise ConfigError(
            f"{self._config.path}: [node] data-dir: {directory} is in use by a running node"
        )

    def _serve(self) -> None:
        assert self._nursery is not None
        self._helper = HelperThread()  # not before: a nursery is forked without threads
        control = Receiver.bind(self._endpoints.control, on_garbage=log.strange_message)
        self._crew = crew = Crew(
            self._config,
            self._nursery,
            self._reactor,
            watch_s=self._watch_s,
            changed=self._look_ready,
            failed=self._fail,
        )
        crew.staff(actors_of(self._config, primary=self._primary, epoch=self._epoch))
        self._log.info("node starts", role=self._role, epoch=self._epoch)
        reactor = self._reactor
        reactor.on_message(control, self._handle)
        reactor.on_readable(self._nursery.fileno(), self._children)
        reactor.on_readable(self._helper.fd, self._helper.collect)
        reactor.every(self._watch_s, self._watch)
        try:
            reactor.run(
                {
                    signal.SIGTERM: self._signalled,
                    signal.SIGINT: self._signalled,
                    signal.SIGCHLD: lambda _: None,
                    signal.SIGHUP: self._app.forward,
                }
            )
        finally:
            self._app.kill()
            if self._hook is not None:
                self._hook.close()
            close_all()

    @property
    def _role(self) -> str:
        return _role(self._primary)

    # --- children

    def _children(self) -> None:
        assert self._crew is not None
        try:
            self._crew.collect()
        except LiteMQError as error:
            self._fail(error)

    def _fail(self, error: LiteMQError) -> None:
        if self._failure is None:
            self._failure = error
            self._log.error("node ends", reason=str(error))
        self._reactor.stop()

    def _watch(self) -> None:
        assert self._crew is not None
        self._crew.watch()
        self._app.watch()
        self._orphans.reap(self._nursery.pid if self._nursery is not None else 0)
        if self._hook is not None:
            self._hook.watch()

    def _command_ended(self, code: int) -> None:
        self._exit_code = code
        self._log.info("the command ended", code=code)
        self._leave()

    # --- messages

    def _handle(self, message: m.Message, _payload: list[bytes]) -> None:
        assert self._crew is not None
        match message:
            case m.ActorAlive():
                self._crew.heard(message)
                if self._hook is not None and not self._primary and self._change is None:
                    self._hook.heard(message)
            case m.ChangeRole():
                self._change_role(message)
            case m.ElectionLeft():
                if self._leaving:
                    self._leaving = False
                    self._stop()
            case m.EpochSeen():
                self._move_on(message)
            case m.AskStatus(request=request, reply_to=reply_to):
                reply = Sender(reply_to)
                reply.send(self._status(request))
                reply.close()
            case m.WritesClosed() | m.BarrierReached() | m.ReplicasDrained() if self._drain.begun:
                self._drain.answered(message)
            case _ if self._change is not None:
                self._change.answered(message)
            case _:
                pass

    # --- the role

    def _move_on(self, seen: m.EpochSeen) -> None:
        """A fixed primary that was set back: no epoch of it may be one that a replica has seen."""
        assert self._crew is not None
        idle = self._ready and not self._drain.begun and self._change is None
        if not idle or not self._primary or not self._epoch <= seen.epoch < LARGEST_EPOCH:
            return
        try:
            self._layout.write_epoch(seen.epoch + 1)
        except LiteMQError as error:  # it is told again
            self._log.debug("can't store the epoch", reason=str(error))
            return
        self._log.warning(
            "this node was set back, replicas have seen later epochs of it; going on in a new one",
            replica=seen.node, its_epoch=seen.epoch, epoch=seen.epoch + 1,
        )  # fmt: skip
        self._epoch, self._ready = seen.epoch + 1, False
        self._crew.dismiss(PRIMARY_ONLY, self._moved_on)

    def _moved_on(self) -> None:
        assert self._crew is not None
        if not self._drain.begun:
            self._crew.staff(actors_of(self._config, primary=True, epoch=self._epoch))

    def _change_role(self, wanted: m.ChangeRole) -> None:
        """Begin; one change at a time, and none while the node ends."""
        assert self._crew is not None
        if not wanted.primary and not self._primary and self._change is None:
            self._tell_election(m.RoleChanged(False, wanted.epoch, ""))
            return
        if self._drain.begun:
            self._tell_election(m.RoleChanged(wanted.primary, wanted.epoch, "the node stops"))
            return
        if self._change is not None:
            self._wanted = wanted  # the last one counts
            self._change.abandon()
            return
        self._change = RoleChange(
            self._config, self._crew, self._reactor, wanted, done=self._role_changed
        )
        self._app.role_changes()
        self._change.begin()

    def _role_changed(self, change: RoleChange, reason: str) -> None:
        self._change, wanted = None, change.wanted
        # first: what is started below takes milliseconds that the election need not wait
        self._tell_election(m.RoleChanged(wanted.primary, wanted.epoch, reason))
        if reason:
            self._log.warning(
                "the role has not changed", wanted=_role(wanted.primary), reason=reason
            )
        else:
            first, self._provisional = self._provisional, False
            self._primary, self._epoch, self._why = wanted.primary, wanted.epoch, wanted.why
            self._since_ms = time.time_ns() // 1_000_000
            self._log.info(
                "role changed", role=self._role, epoch=wanted.epoch, why=wanted.why,
                primary=wanted.node,
            )  # fmt: skip
            if self._hook is not None and not self._primary and not first:
                self._hook.deposed(self._epoch, self._why)
        self._app.role_changed(done=not reason)
        following, self._wanted = self._wanted, None
        if following is not None:
            self._change_role(following)
        self._look_ready()

    def _tell_election(self, message: m.Message) -> None:
        self._send(self._endpoints.election, message)

    def _look_ready(self) -> None:
        assert self._crew is not None
        if self._change is not None:
            self._change.look_ready()
            return
        if self._wanted is not None:
            return  # the next change begins at once
        ready = self._crew.ready
        if self._config.mount.fuse and not (ready and self._ready):
            self._dead_mounts.look()
        if ready and not self._ready:
            self._log.info("node is ready", role=self._role, path=str(self._config.mount.path))
            # Not before: what programs have committed there may be in the kernel's cache only.
            # Not in this thread: it looks at every process of the machine.
            devices = self._dead_mounts.replaced()
            if devices:
                self._helper.call(partial(end_reads, devices), self._reads_ended)
        self._ready = ready
        if ready and not self._provisional:
            self._app.node_is_ready()
            if self._hook is not None and self._primary:
                self._hook.serves(self._epoch, self._why)

    def _reads_ended(self, readers: Readers | LiteMQError) -> None:
        """Programs that have files open in former mounts get errors, and no old states."""
        assert isinstance(readers, Readers)
        if readers.ended:
            self._log.info("ended reads in the dead mount", files=readers.ended)
        if readers.unknown:
            self._log.warning(
                "programs may go on reading old states in the dead mount",
                pids=sorted(readers.unknown)[:20],
            )

    def _status(self, request: int) -> m.NodeStatus:
        databases: list[m.DatabaseStatus] = []
        replicas: list[m.ReplicaStatus] = []
        epoch, primary = self._epoch, self._config.node.name if self._primary else ""
        assert self._crew is not None
        for actor in self._crew.actors.values():
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
            primary=self._primary_text(primary),
            ready=self._ready and not self._drain.begun,
            since_ms=self._since_ms,
            why=self._why,
            databases=databases,
            replicas=replicas,
            actors=self._crew.status(),
        )

    def _primary_text(self, known: str) -> str:
        """Name and address of the primary; what is known of them."""
        if not self._config.is_elected:
            return f"{known or '?'} {self._config.election.primary}"
        if self._primary:
            return f"{self._config.node.name} {self._config.stream.listen}"
        return known or "?"

    # --- the end

    def _signalled(self, number: int) -> None:
        if self._drain.begun or self._leaving:
            return
        self._log.info("node stops", signal=signal.Signals(number).name)
        if not self._app.told_to_stop(number):  # else its end brings the node's
            self._leave()

    def _leave(self) -> None:
        """End the node's part in the election first, if it has one."""
        self._app.end_of_node()
        if not self._config.is_elected or self._leaving or self._drain.begun:
            self._stop()
            return
        self._leaving = True
        end_s = time.monotonic() + LEAVE_S

        def ask() -> None:
            if not self._leaving:
                return
            if time.monotonic() >= end_s:
                self._leaving = False
                self._log.warning("the election does not let go; stopping all the same")
                self._stop()
                return
            # again, since the watcher may have been started anew
            self._send(self._endpoints.election, m.LeaveElection())
            self._reactor.later(ASK_AGAIN_S, ask)

        ask()

    def _stop(self) -> None:
        """Close the mount to writers, have everything logged, have the replicas catch up.

        Then stop the actors.
        """
        change, self._change, self._wanted = self._change, None, None
        if change is not None:
            change.drop()
        if self._hook is not None:
            self._hook.stop()
        # in the middle of a change the log may have no owner who could answer; whoever is left
        # logs what there is when it ends
        if change is None and self._primary and self._ready:
            self._drain.begin()
        else:
            self._drain.skip()

    def _drained(self) -> None:
        assert self._crew is not None
        # first of all: it may be writing, and what it has written may be in the kernel's cache
        first = [name for name in self._crew.actors if name == "replica_applier"]
        self._crew.dismiss(first, self._dismiss_all)

    def _dismiss_all(self) -> None:
        assert self._crew is not None
        self._crew.dismiss(list(self._crew.actors), self._stopped)

    def _stopped(self) -> None:
        if self._hook is not None:
            self._hook.when_idle(self._end)
        else:
            self._end()

    def _end(self) -> None:
        self._log.info("node stopped")
        self._reactor.stop()

    def _send(self, endpoint: str, message: m.Message) -> None:
        sender = Sender(endpoint)
        sender.send(message)
        sender.close()


def _role(primary: bool) -> str:
    return "primary" if primary else "replica"
