"""What of a node's role is news to its hook, and which news a slow hook still gets. Pure.

Always true: no two things told one after the other are equal in role, primary and, on a primary,
epoch; and what is told in the end is the latest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from litemq.hooks import RoleChanged


@dataclass(slots=True)
class RoleNews:
    """What the hook was told last. Each method: what to tell now, None when that is known."""

    node: str
    #: this node's own `listen`
    address: str
    _last: RoleChanged | None = None

    def serves(self, epoch: int, why: str, now_us: int) -> RoleChanged | None:
        """This node is the primary of that epoch, and takes writes."""
        last = self._last
        if last is not None and last.role == "primary" and last.epoch == epoch:
            return None
        return self._tell(
            RoleChanged(self.node, "primary", epoch, self.node, self.address, now_us, why)
        )

    def deposed(self, epoch: int, why: str, now_us: int) -> RoleChanged:
        """This node is no longer the primary; who is, is not known yet."""
        return self._tell(RoleChanged(self.node, "replica", epoch, "", "", now_us, why))

    def follows(self, primary: str, address: str, epoch: int, now_us: int) -> RoleChanged | None:
        """This node is a replica of that primary; of none known while the name is empty."""
        last = self._last
        if primary in ("", self.node):  # its own lease, of which it has just let go
            return None
        if last is not None and (last.role, last.primary, last.address) == (
            "replica", primary, address,
        ):  # fmt: skip
            return None
        why = f"{primary} is the primary"
        return self._tell(RoleChanged(self.node, "replica", epoch, primary, address, now_us, why))

    def _tell(self, change: RoleChanged) -> RoleChanged:
        self._last = change
        return change


@dataclass(slots=True)
class Calls:
    """One call at a time; of what comes meanwhile only the newest waits."""

    running: RoleChanged | None = None
    waiting: RoleChanged | None = field(default=None)

    def offer(self, change: RoleChanged) -> RoleChanged | None:
        """Take it up: it is to be called at once if `running` is it afterwards.

        Returns what it takes the place of: that is never called.
        """
        if self.running is None:
            self.running = change
            return None
        overtaken, self.waiting = self.waiting, change
        return overtaken

    def done(self) -> RoleChanged | None:
        """The running call has ended, somehow; the one to make now."""
        self.running, self.waiting = self.waiting, None
        return self.running
