"""Which databases have changed beyond their logs, because those could not be written.

One small file of the data directory holds the names; each is there before a commit that is not in
the log counts as dealt with, and until the whole file was compared with the log. Always true: a
file that can't be read means all databases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from litemq.txlog.durable import write_atomically


class UnloggedNames:
    """Owned by the log writer."""

    def __init__(self, path: Path, everything: Iterable[str]) -> None:
        """`everything` are the databases there are."""
        self._path = path
        try:
            self._names = {str(name) for name in json.loads(path.read_bytes())}
        except FileNotFoundError:
            self._names = set()
        except (OSError, ValueError, TypeError):
            self._names = set(everything)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Raises StorageError."""
        if name not in self._names:
            self._write({*self._names, name})

    def discard(self, name: str) -> None:
        """Raises StorageError; then it is compared once more."""
        if name in self._names:
            self._write(self._names - {name})

    def _write(self, names: set[str]) -> None:
        write_atomically(self._path, json.dumps(sorted(names)).encode())
        self._names = names
