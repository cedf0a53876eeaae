"""Programs that overwrite a whole database in place, without a lock, while the primary changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import litemq
from electorate import Electorate
from nodes import Cluster, Node
from sql_process import IMPORT_PATH
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.caches]

OVERWRITER = Path(__file__).with_name("support") / "overwriter.py"
DATABASE = "whole.db"
#: there and back again
TURNS = 2


@contextmanager
def overwriting(*nodes: Node, empty_s: float = 0.03) -> Iterator[None]:
    """A program on each node, which leaves the file empty for so long.

    Those on replicas are refused until theirs is the primary.
    """
    programs = [
        subprocess.Popen(
            [
                sys.executable, str(OVERWRITER), str(node.mount / DATABASE), node.name,
                str(notes_of(node)), str(empty_s),
            ],
            env=os.environ | {"PYTHONPATH": IMPORT_PATH},
        )
        for node in nodes
    ]  # fmt: skip
    try:
        yield
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait()


def notes_of(node: Node) -> Path:
    return node.directory / "overwritten"


def done(node: Node) -> set[tuple[str, int]]:
    """What was written to the end."""
    notes = notes_of(node).read_text().splitlines() if notes_of(node).exists() else []
    return {(node.name, int(line.split()[1])) for line in notes if line.startswith("done ")}


def rows(node: Node) -> set[tuple[str, int]]:
    with node.connect(DATABASE) as app:
        return {(name, number) for name, number in app.sql("SELECT node, number FROM entry")}


def wait_for_more(node: Node, count: int = 5) -> None:
    before = len(done(node))
    eventually(lambda: len(done(node)) >= before + count, what=f"{node.name} takes overwrites")


def test_database_when_it_is_overwritten_again_and_again_then_each_is_a_transaction(
    new_cluster: Callable[..., Cluster],
) -> None:
    """The next one waits until the log has what it is about to destroy."""
    cluster = new_cluster()
    primary = cluster.primary
    with primary.connect(DATABASE) as app:
        app.sql("CREATE TABLE entry (node, number, ballast)")
    before = cluster.agree(DATABASE)
    with overwriting(primary, empty_s=0.0):
        wait_for_more(primary, 20)
    after = cluster.agree(DATABASE)
    assert rows(primary) == done(primary)
    assert after.txid - before.txid == len(done(primary))
    for node in cluster.nodes:
        assert rows(node) == done(primary)


def test_database_when_it_is_empty_and_open_for_writing_then_replicas_drop_it_at_last(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Whoever overwrites a database writes on at once."""
    cluster = new_cluster()
    primary, (replica,) = cluster.primary, cluster.replicas
    with primary.connect(DATABASE) as app:
        app.sql("CREATE TABLE entry (node, number, ballast)")
    cluster.agree(DATABASE)
    primary.hands.ask("empty", str(primary.mount / DATABASE))
    eventually(lambda: replica.position(DATABASE) is None, what="the replica has none")


def test_database_when_it_is_overwritten_in_place_during_hand_overs_then_nothing_is_lost(
    new_electorate: Callable[..., Electorate],
) -> None:
    """What was written to the end is on the next primary; what is cut off is undone, silently."""
    cluster = new_electorate(size=2)
    with cluster.primary.connect(DATABASE) as app:
        app.sql("CREATE TABLE entry (node, number, ballast)")
    cluster.agree(DATABASE)
    with overwriting(*cluster.nodes):
        for _ in range(TURNS):
            old, (new,) = cluster.primary, cluster.replicas
            wait_for_more(old)
            eventually(lambda new=new: litemq("promote", "--config", new.config_path).code, until=0)
            wait_for_more(new)
    cluster.agree(DATABASE)
    finished = set.union(*(done(node) for node in cluster.nodes))
    for node in cluster.nodes:
        assert finished - rows(node) == set()
