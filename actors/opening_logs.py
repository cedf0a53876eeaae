"""Which databases a replica follows: their logs are opened here, and again when that has failed.

Owns those that can't be opened. Always true: a database is either followed or here, and what can't
be opened is tried again after a pause while all others go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from litemq import log
from litemq.actors.failing import FAILING, FILE_ERRORS, Failing
from litemq.actors.followed import Followed
from litemq.actors.layout import Layout, application_file
from litemq.actors.replica_database import ReplicaDatabase
from litemq.config import Config
from litemq.fs.names import is_database_name
from litemq.transport import messages as m


class OpeningLogs:
    """Those of one applier."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        followed: dict[str, Followed],
        *,
        garbage: Callable[[str, int], object],
        opened: Callable[[Followed], object],
    ) -> None:
        """`followed` gets what was opened; `opened` is told when that had failed before."""
        self._config = config
        self._layout = layout
        self._followed = followed
        self._garbage = garbage
        self._opened = opened
        self._log = log.get()
        self._unopened: dict[str, Failing] = {}

    @property
    def all_open(self) -> bool:
        return not self._unopened

    def follow(self, name: str) -> Followed | None:
        """None while its log can't be opened; that is tried again after a pause."""
        followed = self._followed.get(name)
        if followed is not None:
            return followed
        failing, now = self._unopened.get(name), time.monotonic()
        if failing is not None and now < failing.until_s:
            return None
        if not is_database_name(name):
            self._garbage(f"{name!r} is no name of a database", 1)
            return None
        try:
            database = self._open(name)
        except FILE_ERRORS as error:
            if self._unopened.setdefault(name, Failing()).failed(error, now):
                self._log.warning("can't open the log", db=name, reason=str(error))
            return None
        followed = self._followed[name] = Followed(database)
        if self._unopened.pop(name, None) is not None:
            self._opened(followed)
        return followed

    def try_again(self) -> None:
        """Those whose pause is over."""
        for name in list(self._unopened):
            self.follow(name)

    def anew(self, followed: Followed, error: BaseException) -> None:
        """Its log could not be synced: what is on the disk counts, so read it again."""
        name = followed.database.name
        if self._followed.get(name) is not followed:
            return
        del self._followed[name]
        with contextlib.suppress(*FILE_ERRORS):
            followed.drop_repair()
            followed.database.close_writer()
            followed.database.close(clean=False)
        failing = self._unopened.setdefault(name, followed.failing)
        if failing.failed(error, time.monotonic()):
            self._log.warning("can't sync the log; opening it anew", db=name, reason=str(error))

    def status(self) -> list[m.DatabaseStatus]:
        return [
            m.DatabaseStatus(name, 0, f"{0:016x}", 0, 0, 0, 0, FAILING, failing.reason)
            for name, failing in self._unopened.items()
        ]

    def _open(self, name: str) -> ReplicaDatabase:
        return ReplicaDatabase(
            name,
            self._layout,
            application_file(self._config, name),
            self._config.retention.segment_bytes,
            backing=self._backing(name),
            cached=self._config.caches_writes,
        )

    def _backing(self, name: str) -> Path:
        return (
            self._layout.files / name if self._config.mount.fuse else self._config.mount.path / name
        )
