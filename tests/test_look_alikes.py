"""Files that begin as SQLite's and are none in the clear: told, not replicated, and never mixed up
with what was there before or comes after.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from nodes import Cluster
from tools import succeed
from waiting import eventually

pytestmark = pytest.mark.fuse

TOLD = "not a SQLite database; not replicated"
KEPT = "overwritten by what is none"
_names = (f"like{number}.db" for number in itertools.count(1))


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster()
    cluster.primary.announce(TOLD, KEPT)
    return cluster


@pytest.fixture
def name(shared: Cluster) -> str:
    shared.start()
    return next(_names)


def plain(path: Path, mode: str, rows: int = 50) -> bytes:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("CREATE TABLE t(x)")
        db.executemany("INSERT INTO t VALUES(?)", [("x" * 900,)] * rows)
    return path.read_bytes()


def encrypted(raw: bytes, clear: int) -> bytes:
    """The first bytes in the clear, the rest as a cipher leaves it."""
    return raw[:clear] + random.Random(clear).randbytes(len(raw) - clear)


def told(cluster: Cluster, text: str, name: str) -> int:
    return len(cluster.primary.logged(text, db=name))


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("clear", [32, 96, 128])
def test_file_when_it_only_begins_as_a_database_then_it_is_told_and_stays_here(
    shared: Cluster, name: str, tmp_path: Path, mode: str, clear: int
) -> None:
    """One warning; what is a database in the clear beside it goes on."""
    source = tmp_path / "source"
    data = encrypted(plain(tmp_path / "plain", mode), clear)
    source.write_bytes(data)
    succeed("cp", source, shared.primary.mount / name, directory=tmp_path)
    eventually(lambda: told(shared, TOLD, name) == 1, what="the node says so")
    other = f"other-{name}"
    with shared.primary.connect(other) as app:
        app.script("CREATE TABLE t(x)")
    shared.agree(other)
    for node in shared.replicas:
        assert name not in node.hands.ask("listing", str(node.mount))
    assert shared.primary.position(name) is None
    assert shared.primary.hands.ask("read", str(shared.primary.mount / name)) == data
    assert told(shared, TOLD, name) == 1


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_database_when_it_is_encrypted_and_back_then_replicas_show_only_states_in_the_clear(
    shared: Cluster, name: str, tmp_path: Path, mode: str
) -> None:
    """They keep the last one meanwhile; what comes back is theirs again."""
    mount = shared.primary.mount
    data = plain(tmp_path / "plain", mode)
    succeed("cp", tmp_path / "plain", mount / name, directory=tmp_path)
    before = shared.agree(name)
    (tmp_path / "locked").write_bytes(encrypted(data, 32))
    for _ in range(2):
        succeed("dd", f"if={tmp_path}/locked", f"of={mount}/{name}", "conv=notrunc", directory="/")
        eventually(lambda: told(shared, KEPT, name) == 1, what="the node says so")
        for node in shared.replicas:
            with node.connect(name) as reader:
                assert reader.one("SELECT count(*) FROM t") == 50
            assert node.position(name) == before
    plain(tmp_path / "longer", mode, rows=70)
    succeed("cp", tmp_path / "longer", mount / name, directory=tmp_path)
    shared.agree(name)
    with shared.primary.connect(name) as app:
        app.sql("INSERT INTO t VALUES('after')")
    shared.agree(name)
    for node in shared.nodes:
        with node.connect(name) as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            assert reader.one("SELECT count(*) FROM t") == 71


def test_database_when_a_very_old_sqlite_has_written_it_then_replicas_wait_for_a_newer_one(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """It leaves the size in the header as it was: a copy there would be cut off."""
    mount = shared.primary.mount
    plain(tmp_path / "before", "delete", rows=20)
    succeed("cp", tmp_path / "before", mount / name, directory=tmp_path)
    before = shared.agree(name)
    old = bytearray(plain(tmp_path / "longer", "delete"))
    old[24:28] = (int.from_bytes(old[24:28], "big") + 1).to_bytes(4, "big")
    old[28:32] = (int.from_bytes(old[28:32], "big") - 3).to_bytes(4, "big")
    (tmp_path / "old").write_bytes(old)
    succeed("cp", tmp_path / "old", mount / name, directory=tmp_path)
    eventually(lambda: told(shared, KEPT, name) == 1, what="the node says so")
    with shared.primary.connect(name) as app:
        assert app.one("SELECT count(*) FROM t") == 50
        for node in shared.replicas:
            with node.connect(name) as reader:
                assert reader.one("SELECT count(*) FROM t") == 20
            assert node.position(name) == before
        app.sql("INSERT INTO t VALUES('after')")
    shared.agree(name)
    for node in shared.nodes:
        with node.connect(name) as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            assert reader.one("SELECT count(*) FROM t") == 51
