"""Writers, checkpoints of every kind and kills at once: all that was acknowledged arrives."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import Cluster
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.caches]

#: writes rows of its own, small and large, until it is killed; a line for each acknowledged one
WRITER = """
import os, random, sqlite3, sys, time
path, who, mode, synchronous = sys.argv[1:]
chance = random.Random(who)
db = sqlite3.connect(path, isolation_level=None, timeout=30)
db.execute(f"PRAGMA synchronous={synchronous}")
db.execute("PRAGMA wal_autocheckpoint=20")
if mode != "wal":
    db.execute("PRAGMA cache_size=5")
(number,) = db.execute("SELECT coalesce(max(number), 0) FROM t WHERE who=?", (who,)).fetchone()
while True:
    number += 1
    db.execute("BEGIN IMMEDIATE")
    size = 30000 if chance.random() < 0.1 else 100
    db.execute("INSERT INTO t VALUES(?, ?, randomblob(?))", (who, number, size))
    db.execute("UPDATE total SET n=n+1")
    if chance.random() < 0.1:
        db.execute("DELETE FROM pad")
        db.execute("INSERT INTO pad VALUES(zeroblob(60000))")
    db.execute("COMMIT")
    os.write(1, b"%d\\n" % number)  # in one piece: print may be killed before the end of the line
    # SQLite's locks are not fair: without a pause one writer keeps the others out, also natively
    time.sleep(chance.random() * 0.002)
"""
#: checkpoints of every kind, again and again
CHECKPOINTER = """
import random, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
while True:
    kind = random.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
    try:
        db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "busy" not in str(error):
            raise
"""
WRITERS = 3


class Writers:
    """The programs that write, and what they were told."""

    def __init__(self, cluster: Cluster, mode: str, synchronous: str) -> None:
        self._directory = cluster.directory
        self._arguments = (mode, synchronous)
        self._path = cluster.primary.mount / "many.db"
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._others: list[subprocess.Popen[bytes]] = []

    def acks(self, who: int) -> Path:
        return self._directory / f"acks-{who}"

    def acknowledged(self, who: int) -> set[int]:
        text = self.acks(who).read_text() if self.acks(who).exists() else ""
        return {int(line) for line in text.split("\n")[:-1]}

    def start(self, who: int) -> None:
        with self.acks(who).open("ab") as out:
            self._running[who] = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(self._path), str(who), *self._arguments],
                stdout=out,
            )

    def checkpoint(self) -> None:
        self._others.append(subprocess.Popen([sys.executable, "-c", CHECKPOINTER, str(self._path)]))

    def kill(self, who: int) -> None:
        """In the middle of whatever it does."""
        assert self._running[who].poll() is None, f"writer {who} has failed"
        self._running[who].kill()
        self._running[who].wait()

    def close(self) -> None:
        failed = [each.poll() for each in (*self._running.values(), *self._others)]
        for each in (*self._running.values(), *self._others):
            each.kill()
            each.wait()
        assert failed == [None] * len(failed), "a program ended by itself"


def run(new_cluster: Callable[..., Cluster], mode: str, synchronous: str, seconds: float) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster = new_cluster()
    # a writer that dies between its commit and the index has its frames lost by SQLite itself
    cluster.primary.announce("SQLite's recovery lost committed frames")
    with cluster.primary.connect("many.db") as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(who, number, data)")
        app.script("CREATE TABLE pad(b)", "CREATE TABLE total(n)", "INSERT INTO total VALUES(0)")
    writers = Writers(cluster, mode, synchronous)
    try:
        for who in range(WRITERS):
            writers.start(who)
        if mode == "wal":
            writers.checkpoint()
        for who in range(WRITERS):
            eventually(
                lambda who=who: writers.acknowledged(who),
                timeout_s=60,
                what=f"writer {who} writes",
            )
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(chance.uniform(0.05, 0.5))
            who = chance.randrange(WRITERS)
            writers.kill(who)
            writers.start(who)
    finally:
        writers.close()
    with cluster.primary.connect("many.db") as app:
        app.sql("SELECT count(*) FROM t")  # rolls back what a killed writer left half done
    cluster.agree("many.db", timeout_s=60)
    for node in cluster.nodes:
        with node.connect("many.db") as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            assert reader.one("SELECT n FROM total") == reader.one("SELECT count(*) FROM t")
            for who in range(WRITERS):
                rows = reader.sql("SELECT number FROM t WHERE who=?", str(who))
                missing = writers.acknowledged(who) - {number for (number,) in rows}
                assert not missing, f"lost on {node.name}: {sorted(missing)[:10]} of writer {who}"


@pytest.mark.diagonal
@pytest.mark.parametrize(("mode", "synchronous"), [("delete", "FULL"), ("wal", "OFF")])
def test_writers_when_killed_between_checkpoints_then_what_was_acknowledged_arrives(
    new_cluster: Callable[..., Cluster], mode: str, synchronous: str
) -> None:
    """kill -9 at random moments, with hot journals and frames nobody has published."""
    run(new_cluster, mode, synchronous, 3)


@pytest.mark.torture
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL", "EXTRA"])
@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_writers_when_killed_for_long_then_what_was_acknowledged_arrives(
    new_cluster: Callable[..., Cluster], mode: str, synchronous: str
) -> None:
    """The same over all journal modes, for a minute each."""
    run(new_cluster, mode, synchronous, 60)
