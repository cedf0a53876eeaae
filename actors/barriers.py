"""Reply to a request once everything committed before it is in the log.

Owns the questions that are open. Always true: an answer comes behind what the mount had to report
when it was asked, and behind every commit that was published then; it names only what has been
appended, so a barrier stays open while the disk refuses. A question that comes before the mount and
the log writer agree is asked of the mount once they do.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable

from litemq.actors.group_commit import GroupCommit
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.transport import messages as m
from litemq.transport.sockets import Sender

#: how long a barrier waits for comparisons under way
PATIENCE_S = 2.0
LOOK_S = 0.005
#: a barrier that is still open after this is forgotten: whoever asked has given up
FORGET_S = 60.0

Question = m.Barrier | m.CompleteLog


class Barriers:
    """Those of one log writer."""

    def __init__(
        self,
        group: GroupCommit,
        reactor: Reactor,
        tracked: dict[str, Tracked],
        *,
        mounted: Callable[[], bool],
        ask_report: Callable[[int, str], object],
        look: Callable[[Tracked], object],
        take_published: Callable[[Tracked], object],
    ) -> None:
        """`ask_report`, with a number and a database (or "" for all), has the mount report what it
        has; `reached` gets the number then.

        `look` has a database looked at now that is to be compared.
        """
        self._group = group
        self._reactor = reactor
        self._tracked = tracked
        self._mounted = mounted
        self._ask_report = ask_report
        self._look = look
        self._take_published = take_published
        self._open: dict[int, Question] = {}

    def ask(self, question: Question) -> None:
        """It has been asked."""
        if self._group.agreed and not self._mounted():
            self._answer(question)
            return
        number = secrets.randbits(62)
        self._open[number] = question
        if self._group.agreed:  # else `agreed` does so: the mount may know of commits
            self._ask_report(number, _database_of(question))

    def agreed(self) -> None:
        """The mount and the log writer have agreed on how things stand."""
        for number, question in self._open.items():
            self._ask_report(number, _database_of(question))

    def reached(self, number: int) -> bool:
        """The mount has reported; false if the number is none of these."""
        question = self._open.pop(number, None)
        if question is not None:
            self._answer_when_compared(question, time.monotonic())
        return question is not None

    def _answer_when_compared(self, question: Question, reached_s: float) -> None:
        """A comparison may wait for a transaction that takes its time: then go on without it.

        So does one of a file that is only half there: none of that has been committed.
        """
        left = [each for each in self._concerned(question) if each.is_unlogged_since(reached_s)]
        if left and time.monotonic() < reached_s + PATIENCE_S:
            for tracked in left:
                self._look(tracked)
            self._reactor.later(LOOK_S, lambda: self._answer_when_compared(question, reached_s))
            return
        for tracked in self._concerned(question):
            self._take_published(tracked)
        self._answer(question)

    def _concerned(self, question: Question) -> list[Tracked]:
        name = _database_of(question)
        return [each for each in self._tracked.values() if not name or each.name == name]

    def _answer(self, question: Question) -> None:
        """As soon as all that is prepared is in the log; a refusal is an answer to `CompleteLog`
        alone, for a change of role goes on without.
        """
        forget_s = time.monotonic() + FORGET_S

        def answer(errno: int) -> None:
            if isinstance(question, m.CompleteLog):
                reason = f"can't append to the log: {os.strerror(errno)}" if errno else ""
                self._reply(question, m.LogCompleted(reason, question.epoch))
            elif not errno:
                heads = [each.appended for each in self._concerned(question)]
                known = [head for head in heads if head.position.txid]
                self._reply(question, m.BarrierReached(question.request, known))
            elif time.monotonic() < forget_s:
                wait()

        def wait() -> None:
            self._group.after(None, answer)

        wait()

    def _reply(self, question: Question, answer: m.Message) -> None:
        reply = Sender(question.reply_to)
        reply.send(answer)
        reply.close()


def _database_of(question: Question) -> str:
    """The one that it is about; "" for all."""
    return question.database if isinstance(question, m.Barrier) else ""
