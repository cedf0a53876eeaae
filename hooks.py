"""What a function named by `[election] on-change` is told: the value it is called with.

A user's file need not import this; it may, for its annotations: `from litemq.hooks import
RoleChanged`. When the function is called, and what happens to one that fails or does not return, is
in docs/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The role that this node has now, or the primary that it follows now."""

    #: this node's name, as its configuration has it
    node: str
    role: Literal["primary", "replica"]
    #: the primary's term: a number that only grows
    epoch: int
    #: the primary's name: on the primary its own; "" while a deposed primary knows no other
    primary: str
    #: the primary's `listen` address, such as "tcp://10.0.0.1:7100"; "" as above
    address: str
    #: when this node learned of it: microseconds since 1970, UTC
    since_us: int
    #: for people
    why: str
