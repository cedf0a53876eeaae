"""Databases of a primary whose log can't be opened or appended to, while all others go on.

Owns which they are, and when they are tried again. What happens to such a database meanwhile is
let through and not logged: its name is on the disk before that (`unlogged_names`), and when its log
can be opened again, all of the file is compared with it and logged as one transaction. One that may
be behind its log is withheld instead: there is nothing to let through.
Always true: a database is either tracked or here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from litemq import log
from litemq.actors.failing import FAILING, FILE_ERRORS, Failing
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.actors.unlogged_names import UnloggedNames
from litemq.actors.withheld import Withheld
from litemq.errors import StorageError
from litemq.transport import messages as m


class FailingLogs:
    """Those of one log writer."""

    def __init__(
        self,
        reactor: Reactor,
        tracked: dict[str, Tracked],
        unlogged: UnloggedNames,
        withheld: Withheld,
        *,
        let_go: Callable[[Tracked], object],
        try_again: Callable[[str, int], object],
        verdict: Callable[[int, int, int], object],
        agreed: Callable[[], bool],
    ) -> None:
        """`let_go` closes what is open of a database. `try_again` opens it and has it compared; it
        gets the number of the last report of unexplained writes, and may raise FILE_ERRORS.
        `verdict` gets a gate, 0, and how far the WAL counts. `agreed` tells whether log writer and
        mount agree on how things stand: nothing is tried before.
        """
        self._reactor = reactor
        self._tracked = tracked
        self._unlogged = unlogged
        self._withheld = withheld
        self._let_go = let_go
        self._try_again = try_again
        self._verdict = verdict
        self._agreed = agreed
        self._log = log.get()
        self._spells: dict[str, Failing] = {}
        self._reports: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._spells

    def agreed_on(self) -> None:
        """It is known who is withheld; all others are let through. Raises StorageError."""
        for name in self._spells:
            if name not in self._withheld:
                self._unlogged.add(name)

    def failed(self, name: str, error: BaseException, took_s: float = 0.0) -> None:
        """Set the database aside. Raises StorageError if that can't be noted on the disk.

        `took_s`: how long the attempt took that failed.
        """
        if name not in self._withheld:
            self._unlogged.add(name)
        spell = self._spells.get(name)
        if spell is not None and time.monotonic() < spell.until_s:
            return  # by who had not heard yet
        tracked = self._tracked.pop(name, None)
        if spell is None:
            spell = tracked.failing if tracked is not None else Failing()
        self._spells[name] = spell
        if spell.failed(error, time.monotonic(), took_s):
            if name in self._withheld:
                self._log.warning(
                    "the database may be behind its log; nobody gets it, trying again",
                    db=name, reason=spell.reason,
                )  # fmt: skip
            else:
                self._log.warning(
                    "the database can't be logged; trying again, others go on",
                    db=name, reason=spell.reason,
                )  # fmt: skip
        if tracked is not None:
            self._let_go(tracked)
        self._reactor.later(spell.pause_s, lambda: self._again(name))

    def found(self, name: str, tracked: Tracked) -> None:
        """Its log is open again; it is failing until the comparison has ended."""
        tracked.failing = self._spells.pop(name)

    def status(self) -> list[m.DatabaseStatus]:
        return [
            m.DatabaseStatus(name, 0, f"{0:016x}", 0, 0, 0, 0, FAILING, spell.reason)
            for name, spell in self._spells.items()
        ]

    def compared(self, tracked: Tracked) -> None:
        """All of it is in the log."""
        if tracked.failing.worked():
            self._log.info("the database is logged again", db=tracked.name)
        try:
            self._unlogged.discard(tracked.name)
        except StorageError as error:  # compared once more after the next start
            self._log.info("can't forget a comparison", db=tracked.name, reason=str(error))

    def answer(self, name: str, message: m.Message) -> None:
        """What the mount says of such a database: let it through."""
        match message:
            case m.CommitFile(gate=gate):
                self._verdict(gate, 0, 0)
            case m.WalGate(gate=gate, wal_end=wal_end):
                self._verdict(gate, 0, wal_end)
            case m.UnexplainedWrites(sequence=sequence):
                self._reports[name] = max(sequence, self._reports.get(name, 0))
            case _:
                pass  # it is looked at when the log is open again

    def _again(self, name: str) -> None:
        spell = self._spells.get(name)
        if spell is None:
            return
        if not self._agreed():
            self._reactor.later(spell.pause_s, lambda: self._again(name))
            return
        begun_s = time.monotonic()
        try:
            self._try_again(name, self._reports.get(name, 0))
        except FILE_ERRORS as error:
            self.failed(name, error, time.monotonic() - begun_s)
