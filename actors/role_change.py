"""A change of role, step by step: what the supervisor tells whom, and what it waits for.

Mounts stay, and files stay open; but where the kernel caches writes, a node that stops being the
primary gets a new mount, since who has files open could go on in the cache. Always true: the log
of the files has one owner at a time: the applier has ended before a log writer works, and the
other way round; the epoch is on disk before anything bears it; and on the way down the mount
refuses writes before anything else happens.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable

from litemq import log
from litemq.actors.crew import Crew
from litemq.actors.layout import REPLACED, Layout
from litemq.actors.nursery import Factory
from litemq.actors.reactor import Reactor
from litemq.actors.roles import actors_of
from litemq.config import Config
from litemq.errors import StorageError
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Sender

PRIMARY_ONLY = ("log_writer", "stream_publisher")
#: a step that takes longer has failed
STEP_S = 5.0
#: a primary that is not ready by then is made a replica as it is
READY_S = 30.0
TELL_AGAIN_S = 0.5


class RoleChange:
    """One change, up or down."""

    def __init__(
        self,
        config: Config,
        crew: Crew,
        reactor: Reactor,
        wanted: m.ChangeRole,
        *,
        done: Callable[[RoleChange, str], None],
    ) -> None:
        """`done` gets an empty text when the role has changed, or why it has not."""
        self._config = config
        self._layout = Layout(config.node.data_dir)
        self._endpoints = Endpoints(config.run_dir)
        self._crew = crew
        self._reactor = reactor
        self._done = done
        self._log = log.get()
        self._step = 0
        self._dropped = False
        #: why this node cannot be a primary
        self._unable = ""
        self._waits_until_ready = False
        self._waits_for: type[m.Message] | None = None
        self._mount = crew.incarnation("fuse_capture")
        #: the mount that is cut off has lived until nobody had anything in its cache
        self._cut_off_in_order = False
        self.wanted = wanted

    def begin(self) -> None:
        """Take the first step."""
        if self.wanted.primary:
            self._complete_log()
            # made while the applier completes its log and ends; they work when that is done
            self._crew.staff(self._actors(PRIMARY_ONLY), held=True)
        else:
            # who has just started may still be reading what was committed before
            self._waits_until_ready = True
            self._reactor.later(READY_S, self._close_writes)
            self.look_ready()

    def abandon(self) -> None:
        """Another role is wanted; end at once as long as nothing has changed."""
        if self.wanted.primary and self._waits_for is m.LogCompleted:
            self._give_up("another role is wanted")
        elif self._step:  # all but ready: this is the role, and the way down begins from here
            self._end("")

    def drop(self) -> None:
        """The node stops: nothing more is done, and nobody is told."""
        self._waits_for = None
        self._waits_until_ready = False
        self._step = 0
        self._dropped = True

    def _close_writes(self) -> None:
        if self._waits_until_ready:
            self._waits_until_ready = False
            self._ask(self._endpoints.gates, m.CloseWrites(self._endpoints.control), m.WritesClosed)

    def answered(self, message: m.Message) -> None:
        """One of the actors has answered; of earlier steps, that counts for nothing."""
        if self._waits_for is None or not isinstance(message, self._waits_for):
            return
        if isinstance(message, m.LogCompleted) and message.epoch != self.wanted.epoch:
            return
        if isinstance(message, m.RoleSet) and message != m.RoleSet(
            self.wanted.primary, self.wanted.epoch
        ):
            return
        self._waits_for = None
        match message:
            case m.WritesClosed():
                self._complete_log()
            case m.LogCompleted(reason=reason) if reason:
                self._incomplete(reason)
            case m.LogCompleted() if self.wanted.primary:
                # the term is written while the applier ends
                self._crew.dismiss(["replica_applier"], self._applier_ended)
                self._begin_term()
            case m.LogCompleted():
                self._crew.dismiss(PRIMARY_ONLY, self._down)
            case m.RoleSet() if self._cache_was_lost:
                # nobody has compared the files with their logs since: stay a replica, who does
                self._layout.end_term()
                self._crew.dismiss(
                    [*PRIMARY_ONLY, "fuse_capture"],
                    lambda: self._stay("the mount has died meanwhile"),
                    number=signal.SIGKILL,
                )
            case m.RoleSet():
                self._staff()
            case _:
                pass

    def look_ready(self) -> None:
        """Something has changed among the actors."""
        if self._waits_until_ready and self._crew.ready:
            self._close_writes()
        if self._step and self._crew.ready:
            self._end("")

    # --- steps

    def _complete_log(self) -> None:
        wanted = self.wanted
        question = m.CompleteLog(self._endpoints.control, wanted.epoch, wanted.primary)
        self._ask(self._endpoints.capture, question, m.LogCompleted)

    def _ask(self, endpoint: str, question: m.Message, answer: type[m.Message]) -> None:
        self._waits_for = answer
        self._send(endpoint, question)

        def late() -> None:
            if self._waits_for is answer:
                self._waits_for = None
                self._late(answer)

        self._reactor.later(STEP_S, late)

    def _late(self, answer: type[m.Message]) -> None:
        self._incomplete(f"no {answer.__name__} within {STEP_S:g} s")

    def _incomplete(self, reason: str) -> None:
        if self.wanted.primary:
            self._give_up(reason)
            return
        # the way down has to end: what is not in the log is logged by the applier before it follows
        self._log.warning("a step of the change of role did not succeed; going on", reason=reason)
        self._crew.dismiss(PRIMARY_ONLY, self._down)

    def _give_up(self, reason: str) -> None:
        """Be the replica that this node still is."""
        self._waits_for = None
        self._crew.dismiss(PRIMARY_ONLY, lambda: self._stay(reason))

    def _stay(self, reason: str) -> None:
        if self._dropped:
            return
        self._crew.staff(actors_of(self._config, primary=False, epoch=self.wanted.epoch))
        self._end(reason)

    def _applier_ended(self) -> None:
        self._reactor.later(0, self._set_role)  # it may have ended before the term was written

    def _begin_term(self) -> None:
        try:
            self._layout.write_epoch(self.wanted.epoch)
            self._layout.begin_term(self.wanted.epoch)
        except StorageError as error:
            self._unable = str(error)

    def _down(self) -> None:
        if self._dropped:
            return
        self._layout.end_term()
        self._set_role()

    def _set_role(self) -> None:
        """Have the mount change sides, before any actor of that side speaks to it."""
        if self._dropped:
            return
        if self._unable:
            self._layout.end_term()
            self._give_up(self._unable)
        elif self._config.caches_writes and not self.wanted.primary:
            self._cut_off_in_order = self._mount == self._crew.incarnation("fuse_capture")
            # hard: its kernel connection ends with the process
            self._crew.dismiss(["fuse_capture"], self._mount_again, number=signal.SIGKILL)
        elif self._config.mount.fuse:
            self._waits_for = m.RoleSet
            self._tell_mount()
        else:
            self._staff()

    @property
    def _cache_was_lost(self) -> bool:
        up_in_the_cache = self.wanted.primary and self._config.caches_writes
        return up_in_the_cache and self._mount != self._crew.incarnation("fuse_capture")

    def _mount_again(self) -> None:
        if not self._dropped:
            if self._cut_off_in_order:
                # all it had has been handed over, and has come to the files
                with contextlib.suppress(OSError):  # then programs wait for the comparison
                    self._layout.mounted.write_text(REPLACED)
            self._staff()

    def _tell_mount(self) -> None:
        """Again and again: it may have to be started anew."""
        if self._waits_for is not m.RoleSet:
            return
        wanted = self.wanted
        text = f"{wanted.node or '?'} {wanted.address}".rstrip()
        self._send(self._endpoints.gates, m.SetRole(wanted.primary, wanted.epoch, text))
        self._reactor.later(TELL_AGAIN_S, self._tell_mount)

    def _staff(self) -> None:
        self._crew.staff(self._actors())
        self._crew.release()
        if self.wanted.primary:
            self._step = 1  # until all of them are ready
        else:
            self._end("")  # the election tells the applier whom to follow

    def _actors(self, names: Iterable[str] = ()) -> dict[str, Factory]:
        """Those of the role that is wanted; only `names`, if there are any."""
        wanted = self.wanted
        actors = actors_of(self._config, primary=wanted.primary, epoch=wanted.epoch)
        return {name: actors[name] for name in names or actors}

    def _end(self, reason: str) -> None:
        self._step = 0
        self._done(self, reason)

    def _send(self, endpoint: str, message: m.Message) -> None:
        sender = Sender(endpoint)
        sender.send(message)
        sender.close()
