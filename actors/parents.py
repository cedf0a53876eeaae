"""Whom a replica follows, decided from what it hears: `upstream` in its order, the primary last.

Pure: no sockets and no clock but the caller's. Always true: a replica stays where it is as long as
that goes on telling it of the primary; it never goes back to a better place by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

#: a parent that has not been heard for this long is not there
SILENT_S = 3.0
#: heartbeats that may be lost before that counts, if they are rare
LOST_HEARTBEATS = 3
#: a relay that does not hear the primary has so long to find another way to it (a primary that is
#: restarted should find its tree as it was)
ORPHAN_S = 15.0


class Parents:
    """The places to follow, and which of them is the present one."""

    def __init__(self, upstream: Sequence[str], *, heartbeat_s: float) -> None:
        self._upstream = tuple(upstream)
        #: whoever is not heard for this long is silent
        self.silent_s = max(SILENT_S, LOST_HEARTBEATS * heartbeat_s)
        self._at = 0
        self._heard_s = 0.0
        self._fed_s = 0.0
        #: the primary's address, "" while it is not known
        self.primary = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Every address, in the order in which they are tried."""
        if not self.primary or self.primary in self._upstream:
            return self._upstream
        return (*self._upstream, self.primary)

    @property
    def address(self) -> str:
        """Whom to follow now; "" while there is nobody."""
        places = self.places
        return places[self._at % len(places)] if places else ""

    def begin(self, now_s: float) -> None:
        """The present one has just been turned to."""
        self._heard_s = self._fed_s = now_s

    def heard(self, now_s: float, *, orphan: bool) -> None:
        """A heartbeat of the present one; `orphan` if it does not hear the primary itself."""
        self._heard_s = now_s
        if not orphan:
            self._fed_s = now_s

    def sent_records(self, now_s: float) -> None:
        """Heartbeats wait behind many of them; whether it hears the primary, only those tell."""
        self._heard_s = now_s

    def why_leave(self, now_s: float) -> str:
        """What is wrong with the present one; "" if nothing is, or if there is no other."""
        if len(self.places) < 2:
            return ""
        if now_s - self._heard_s > self.silent_s:
            return "it is silent"
        if now_s - self._fed_s > max(ORPHAN_S, self.silent_s):
            return "it does not hear the primary"
        return ""

    def turn_to_next(self) -> bool:
        """Give the present one up; false if there is no other."""
        places = self.places
        if len(places) < 2:
            return False
        self._at = (self._at + 1) % len(places)
        return True


def loop(own: str, node: str, above: Sequence[str], *, most: int) -> str:
    """Why a relay can't be followed: who is above it, or how many are; "" if it can."""
    if above and own in (node, *above):
        return "this node's name is above it: the nodes follow each other, or two have one name"
    if len(above) >= most:
        return f"the tree has more than {most} levels"
    return ""
