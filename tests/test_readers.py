"""Programs that open a database to read it, on nodes that change their role meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import litemq
from electorate import Electorate
from nodes import Node
from sql_process import IMPORT_PATH
from waiting import eventually

pytestmark = [pytest.mark.fuse]

READER = Path(__file__).with_name("support") / "reader.py"
DATABASE = "read.db"
TURNS = 2


def told(node: Node) -> list[str]:
    path = node.directory / "read"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_database_when_it_is_opened_during_hand_overs_then_it_can_always_be_read(
    new_electorate: Callable[..., Electorate], mode: str
) -> None:
    """Also by a program that is the only one, and takes the WAL away when it closes.

    It may have opened the database as the primary's and find itself on a replica before it has read
    a byte: the next attempt works.
    """
    cluster = new_electorate(size=2)
    with cluster.primary.connect(DATABASE) as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
    cluster.agree(DATABASE)
    readers = [
        subprocess.Popen(
            [sys.executable, str(READER), str(node.mount / DATABASE), str(node.directory / "read")],
            env=os.environ | {"PYTHONPATH": IMPORT_PATH},
        )
        for node in cluster.nodes
    ]
    try:
        for _ in range(TURNS):
            old, (new,) = cluster.primary, cluster.replicas
            eventually(lambda new=new: litemq("promote", "--config", new.config_path).code, until=0)
            cluster.wait_primary(other_than=old)
            read = [len(told(node)) for node in cluster.nodes]
            eventually(
                lambda read=read: all(
                    len(told(node)) > before
                    for node, before in zip(cluster.nodes, read, strict=True)
                ),
                what="both go on reading",
            )
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    for node in cluster.nodes:
        assert set(told(node)) == {"ok"}
