"""What a call finds when it goes on after a wait."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from litemq.fs.operations import Operations
from litemq.fs.tree import ROOT_INODE, Tree


class Deposed:
    """A gatekeeper that ceases to be the primary's while somebody waits."""

    read_only = False
    refuse_errno = 0
    fenced = False
    capturing = True

    def admitted(self, _pid: int) -> bool:
        return False

    async def commits_logged(self, _database: str) -> None:
        self.read_only = True

    def wal_opened(self, _database: str) -> None:
        """Nobody listens."""


def create(operations: Operations, name: bytes) -> None:
    context: Any = SimpleNamespace(uid=os.geteuid(), gid=os.getegid(), pid=1, umask=0o022)
    asyncio.run(operations.create(ROOT_INODE, name, 0o644, os.O_RDWR, context))


def test_wal_when_the_node_is_deposed_while_its_making_waits_then_it_is_refused(
    tmp_path: Path,
) -> None:
    """A replica lets nobody but its applier write, whoever asked before it was one."""
    gatekeeper: Any = Deposed()
    operations = Operations(Tree(tmp_path, gatekeeper), gatekeeper)
    with pytest.raises(pyfuse3.FUSEError) as refused:
        create(operations, b"a.db-wal")
    assert refused.value.errno == errno.EROFS
    assert list(tmp_path.iterdir()) == []
