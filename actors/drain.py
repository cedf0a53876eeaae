"""The drain of a primary that stops: close the mount to writers, log, have the replicas catch up.

Owns the stage. Always true: stages follow each other in their order, each has its own time, and
what comes of an earlier stage, an answer or the end of its time, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto

from litemq import log
from litemq.actors.reactor import Reactor
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints

#: a stage that takes longer is given up (seconds)
STAGE_S = 5.0
#: the publisher ends the last stage by itself; it is given up if that is not heard (seconds)
GRACE_S = 1.0


class Stage(IntEnum):
    """What is waited for."""

    NOT_BEGUN = auto()
    WRITES_CLOSED = auto()
    LOGGED = auto()
    REPLICAS = auto()
    DONE = auto()


class Drain:
    """One node's, once."""

    def __init__(
        self,
        reactor: Reactor,
        endpoints: Endpoints,
        *,
        send: Callable[[str, m.Message], object],
        done: Callable[[], object],
    ) -> None:
        """`send` takes an endpoint and a message; `done` is called once."""
        self._reactor = reactor
        self._endpoints = endpoints
        self._send = send
        self._done = done
        self._stage = Stage.NOT_BEGUN

    @property
    def begun(self) -> bool:
        return self._stage is not Stage.NOT_BEGUN

    def begin(self) -> None:
        """Take the first step; a second call changes nothing."""
        if self.begun:
            return
        self._enter(Stage.WRITES_CLOSED)
        self._send(self._endpoints.gates, m.CloseWrites(self._endpoints.control))

    def skip(self) -> None:
        """There is nothing to drain."""
        self._end()

    def answered(self, message: m.Message) -> None:
        """An actor has answered."""
        match message:
            case m.WritesClosed() if self._stage is Stage.WRITES_CLOSED:
                self._enter(Stage.LOGGED)
                self._send(self._endpoints.capture, m.Barrier(1, self._endpoints.control))
            case m.BarrierReached(heads=heads) if self._stage is Stage.LOGGED:
                self._enter(Stage.REPLICAS)
                within_ms = int(STAGE_S * 1000)
                question = m.DrainReplicas(self._endpoints.control, within_ms, heads)
                self._send(self._endpoints.records, question)
            case m.ReplicasDrained() if self._stage is Stage.REPLICAS:
                self._end()
            case _:
                pass

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        grace_s = GRACE_S if stage is Stage.REPLICAS else 0.0
        self._reactor.later(STAGE_S + grace_s, lambda: self._late(stage))

    def _late(self, stage: Stage) -> None:
        if self._stage is stage:
            log.get().warning(
                "a step of the shutdown takes too long; going on",
                step=stage.name.lower().replace("_", " "),
            )
            self._end()

    def _end(self) -> None:
        if self._stage is not Stage.DONE:
            self._stage = Stage.DONE
            self._done()
