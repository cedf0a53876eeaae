"""When each replica showed a transaction, sampled from the position files of all nodes.

A replica rewrites `DATA-DIR/databases/NAME/position` after SQLite has committed the transaction
there, so from then on a reader sees it. Reads these files and nothing else; only those of replicas
that are behind are read, so that looking costs little. Always true: a transaction counts as shown
no earlier than it was, and later by the pause between two looks at most, if this process has a CPU.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PAUSE_S = 0.002
#: where the TXID stands in the text of a position
_TXID = slice(17, 33)


@dataclass(frozen=True, slots=True)
class Lag:
    """Milliseconds from a commit on the primary until so many replicas showed it."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, lags_ns: Sequence[int]) -> Lag:
        """Raises IndexError when there are none."""
        ordered = sorted(lags_ns)
        return cls(
            ordered[len(ordered) // 2] / 1e6,
            ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1e6,
        )


class Lookout:
    """The position files of one database on all nodes."""

    def __init__(self, primary: Path, replicas: Sequence[Path]) -> None:
        """All of them exist. Raises OSError."""
        with contextlib.ExitStack() as opened:
            self._primary = _open(primary, opened)
            self._replicas = [_open(path, opened) for path in replicas]
            self._opened = opened.pop_all()
        self._at = [_txid(fd) for fd in self._replicas]
        #: of each replica: TXID and when it was seen, both growing
        self._seen: list[list[tuple[int, int]]] = [[] for _ in replicas]
        self.looks = 0
        self.looking_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._opened.close()

    @property
    def slowest(self) -> int:
        """The least TXID that a replica has shown."""
        return min(self._at)

    def look_while(self, wanted: Callable[[], bool]) -> None:
        """Look every few milliseconds."""
        begin_s = time.monotonic()
        while wanted():
            self.look()
            time.sleep(PAUSE_S)
        self.looking_s += time.monotonic() - begin_s

    def look(self) -> None:
        """At the primary, and at those that are behind it."""
        self.looks += 1
        head = _txid(self._primary)
        for number, at in enumerate(self._at):
            if at < head and (txid := _txid(self._replicas[number])) > at:
                self._at[number] = txid
                self._seen[number].append((txid, time.monotonic_ns()))

    def lags(self, first_txid: int, committed_ns: Sequence[int]) -> list[list[int]]:
        """Of each transaction: nanoseconds until the first, the second, ... replica showed it.

        Leaves out transactions that one of them has not shown.
        """
        shown = [_shown(seen, first_txid, len(committed_ns)) for seen in self._seen]
        return [
            sorted(max(0, when - committed) for when in whens)
            for committed, *whens in zip(committed_ns, *shown, strict=False)
        ]


def _open(path: Path, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


def _txid(fd: int) -> int:
    """0 where there is none to show."""
    return int(os.pread(fd, 33, 0)[_TXID] or b"0", 16)


def _shown(seen: Sequence[tuple[int, int]], first_txid: int, count: int) -> list[int]:
    """When each of `count` transactions was seen; as many as were."""
    found: list[int] = []
    for txid, when in seen:
        missing = min(txid, first_txid + count - 1) - (first_txid + len(found)) + 1
        found += [when] * max(0, missing)
    return found
