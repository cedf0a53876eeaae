"""Programs that were stopped while they had a lock on a database of this primary.

Others wait for them for ever, and SQLite tells nobody whom it waits for. Looks now and then, in the
helper thread because it asks the mount. Always true: what is found is for people; nothing is done
about it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from litemq.actors.helper_thread import HelperThread
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.errors import LiteMQError
from litemq.fs.lock_holders import stopped_holders

LOOK_S = 2.0


class StoppedPrograms:
    """Those of one log writer's databases."""

    def __init__(
        self,
        reactor: Reactor,
        helper: HelperThread,
        tracked: dict[str, Tracked],
        *,
        mount_path: Callable[[str], str],
    ) -> None:
        """`mount_path` gives the path of a database there, of the mount itself for ""."""
        self._reactor = reactor
        self._helper = helper
        self._tracked = tracked
        self._mount_path = mount_path

    def begin(self) -> None:
        """Look from now on."""
        self._reactor.later(LOOK_S, self._look)

    def _look(self) -> None:
        mount = self._mount_path("")
        paths = {self._mount_path(name): name for name in self._tracked}
        self._helper.call(partial(stopped_holders, mount, list(paths)), partial(self._found, paths))

    def _found(self, paths: dict[str, str], found: dict[str, str] | LiteMQError) -> None:
        blocked = {} if isinstance(found, LiteMQError) else found
        for path, name in paths.items():
            if name in self._tracked:
                self._tracked[name].blocked_by = blocked.get(path, "")
        self.begin()
