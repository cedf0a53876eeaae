"""Databases that may be behind their logs: nobody has them open until that is known, or mended.

Where the kernel caches writes, and its cache was lost with a mount or a node, a file may lack what
its log and the replicas have. A write to it would be acknowledged on top of an earlier state.
Always true: a database leaves when its file shows all that its log has; those whose programs were
let through while their logs could not be written (`unlogged_names`) are none of these, for their
files count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from litemq.actors.unlogged_names import UnloggedNames
from litemq.transport import messages as m
from litemq.transport.sockets import Sender


class Withheld:
    """Those of one log writer. The mount knows them, too, and outlives it."""

    def __init__(
        self, to_fuse: Sender, unlogged: UnloggedNames, names: Iterable[str], *, cached: bool
    ) -> None:
        """`names` are the databases that have logs; `cached`: the kernel caches writes."""
        self._to_fuse = to_fuse
        self._unlogged = unlogged
        self._cached = cached
        #: until the mount has said how things stand, all of them
        self._names = set(names) if cached else set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def agree(self, message: m.ResyncCapture, names: Iterable[str]) -> None:
        """From now on those of a mount that is there; or all `names` if their cache was lost."""
        lost = set(names) if self._cached and message.unclean else set()
        there = message.mounted or message.taken_over
        self._names = {
            name for name in (message.withheld if there else lost) if name not in self._unlogged
        }

    def discard(self, name: str) -> None:
        """Its file shows what its log has."""
        self._names.discard(name)

    def tell(self) -> None:
        """Have the mount keep these from everybody, and give the others."""
        if self._cached:
            self._to_fuse.send(m.WithholdDatabases(list(self)))
