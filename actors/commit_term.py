"""Until when a mount accepts commits, and whether writers wait.

Owns the end of the lease as the mount was told, the lock that no two mounts hold where a lock file
elects, and the hold of a hand-over. Never asks anyone. Always true: where the kernel caches writes,
nothing that it was told before counts when commits are refused, or a hold begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from litemq import log
from litemq.config import Config
from litemq.election import clock
from litemq.election.opening import open_commits_lock
from litemq.fs import kernel_cache
from litemq.fs.poll_loop import Event, PollLoop

#: the end of a lease is looked at so long after it (seconds)
LOOK_AFTER_S = 0.001


class CommitTerm:
    """A primary's time; on a replica, and where the primary is fixed, it has no end."""

    def __init__(
        self, config: Config, loop: PollLoop, *, ends: bool, ask_before_writes: Callable[[], None]
    ) -> None:
        """`ends`: it is a primary's that is elected. `ask_before_writes` has the kernel ask before
        every write that it would cache.
        """
        self._loop = loop
        self._ask_before_writes = ask_before_writes
        self._cached = config.caches_writes
        self._lock = open_commits_lock(config)
        #: seconds on the boot clock
        self._until_s = 0.0 if ends else math.inf
        self._watched = False
        #: set while writers are to wait; they go on when it happens
        self.holding: Event[None] | None = None
        self._log = log.get()

    @property
    def over(self) -> bool:
        """Whether no transaction may end by a commit."""
        return clock.now_s() >= self._until_s

    @property
    def cached_writes_s(self) -> float:
        """How long the kernel may take writes to a WAL into its cache without asking."""
        held = self.holding is not None
        return 0.0 if held else kernel_cache.lifetime_s(self._until_s - clock.now_s())

    def accept(self, until_s: float) -> None:
        """Told again and again; refused as long as another mount holds the lock."""
        try:
            free = self._lock is None or self._lock.take()
        except OSError as error:
            self._log.info("commits wait for the lock file", reason=error.strerror)
            free = False
        self._until_s = until_s if free else 0.0
        if free:
            self.let_go()
            self._watch()

    def fence(self) -> None:
        """Refuse whatever ends a transaction."""
        self._until_s = 0.0
        if self._lock is not None:
            self._lock.free()
        self._ask_before_writes()

    def forget(self) -> None:
        """This is a replica now: whoever writes is refused for other reasons."""
        self.fence()
        self._until_s = math.inf

    def hold(self) -> None:
        """Have writers wait."""
        if self.holding is None:
            self.holding = Event()
            self._ask_before_writes()

    def let_go(self) -> None:
        """Have them go on, or be refused."""
        if self.holding is not None:
            self.holding.set()
            self.holding = None

    def _watch(self) -> None:
        left_s = self._until_s - clock.now_s()
        if self._cached and not self._watched and left_s < math.inf:
            self._watched = True
            self._loop.call_later(max(left_s, 0.0) + LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        self._watched = False
        if self.over:
            self._ask_before_writes()
        else:
            self._watch()
