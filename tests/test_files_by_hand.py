"""Files that leave and get their names by hand: the mount ends as a disk does, and so do replicas.

A walk takes random steps on two directories alike, a native one and the mount: programs that open,
commit, checkpoint, die and close, and between them a shell that deletes, renames, copies and cuts
any of a database's files, whoever has them open.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodes import Cluster
from sql_process import SqlError, SqlProcess
from waiting import eventually

pytestmark = [pytest.mark.caches, pytest.mark.fuse]

SUFFIXES = ("", "-wal", "-shm", "-journal")
MODES = ("delete", "truncate", "persist", "wal")
STEPS = 24
SHELL_S = 60.0
#: in the shell's words: F and T are two of the databases' files, K a copy kept of an earlier file
WAYS = (
    "rm -f F",
    "mv F F.away",
    "mv F T",
    "mv F.away F",
    "cp F K",
    "cp K F",
    "cp K F.new && mv F.new F",
    "dd if=K of=F conv=notrunc bs=64k status=none",
    "dd if=K of=F conv=notrunc,fsync bs=4k status=none",
    "truncate -s 0 F",
    "truncate -s 4096 F",
    "rm -f DB DB-wal DB-shm DB-journal",
    "rm -f DB-wal DB-shm && cp K DB",
    "for s in '' -wal -shm -journal; do mv DB$s OTHER$s; done",
)


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster()
    cluster.primary.announce("overwritten by what is none", "SQLite's recovery lost committed")
    # a WAL whose header was overwritten while it was in use: SQLite itself loses what is in it
    cluster.primary.announce("changed without its log")
    cluster.primary.announce("holds a database and is not replicated because of its name")
    return cluster


class Side:
    """One of the two directories, and the programs at work in it."""

    def __init__(self, directory: Path, copies: Path) -> None:
        self.directory = directory
        self.copies = copies
        copies.mkdir(parents=True)
        self.programs: dict[int, SqlProcess] = {}

    def shell(self, command: str) -> bool:
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.directory, capture_output=True, timeout=SHELL_S,
            check=False,
        )  # fmt: skip
        return done.returncode == 0

    def sql(self, number: int, *statements: str) -> list[Any]:
        """Of an open program: rows, or the class of the error."""
        found: list[Any] = []
        for statement in statements:
            try:
                found.append(self.programs[number].sql(statement))
            except SqlError as error:
                found.append(error.kind)
        return found

    def open(self, number: int, database: str, mode: str) -> list[Any]:
        self.kill(number)
        self.programs[number] = SqlProcess(self.directory / database, timeout_s=0.5)
        return self.sql(
            number,
            f"PRAGMA journal_mode={mode}",
            "PRAGMA synchronous=NORMAL",
            "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)",
        )

    def kill(self, number: int) -> None:
        program = self.programs.pop(number, None)
        if program is not None:
            program.kill()

    def close(self, number: int) -> None:
        self.programs.pop(number).close()


class Walk:
    """The same steps on both sides."""

    def __init__(self, cluster: Cluster, tmp_path: Path, mode: str, seed: int) -> None:
        self.random = random.Random(f"{mode}-{seed}")
        self.mode = mode
        prefix = f"{mode}{seed}"
        self.names = [f"{prefix}x.db", f"{prefix}y.db"]
        native = tmp_path / "native"
        native.mkdir()
        self.native = Side(native, tmp_path / "copies")
        self.mounted = Side(cluster.primary.mount, tmp_path / "copies of the mount")
        self.sides = (self.native, self.mounted)
        self.steps: list[str] = []
        self.rows = 0

    def both(self, what: str, step: Callable[[Side], Any]) -> None:
        """One step; its outcome must be the same."""
        outcomes = [step(side) for side in self.sides]
        self.steps.append(f"{what} -> {str(outcomes[0])[:60]}")
        story = "\n".join(self.steps)
        assert outcomes[0] == outcomes[1], f"{story}\nin the mount: {outcomes[1]}"

    def run(self) -> None:
        for number in (0, 1):
            name = self.names[number]
            self.both(f"open {name}", lambda s, n=number, d=name: s.open(n, d, self.mode))
            self._commit(number)
            self.both(f"keep {name}", lambda s, d=name: s.shell(f"cp {d} '{s.copies}/kept'"))
        for _ in range(STEPS):
            self.random.choice([self._program, self._program, self._by_hand])()
        for number in list(self.native.programs):
            end = self.random.choice(["close", "kill"])
            self.both(f"{end} {number}", lambda s, n=number, e=end: getattr(s, e)(n))

    def _program(self) -> None:
        number = self.random.randrange(3)
        if number not in self.native.programs:
            name = self.random.choice(self.names)
            self.both(f"open {name} by {number}", lambda s: s.open(number, name, self.mode))
            return
        self.random.choice([self._commit, self._commit, self._spill, self._checkpoint, self._end])(
            number
        )

    def _commit(self, number: int) -> None:
        self.rows += 10
        statement = (
            f"INSERT OR REPLACE INTO t SELECT {self.rows}+value, printf('%.300c', 'r') "
            "FROM json_each('[0,1,2,3,4,5,6,7,8,9]')"
        )
        self.both(f"commit by {number}", lambda s: s.sql(number, statement))

    def _spill(self, number: int) -> None:
        """Die in the middle of a transaction that has reached the files, or not die."""
        self.rows += 1000
        statements = [
            "PRAGMA cache_size=2",
            "BEGIN",
            f"UPDATE t SET b='s{self.rows}' || hex(zeroblob(200))",
            "SELECT count(*) FROM t",
        ]
        self.both(f"write by {number}", lambda s: s.sql(number, *statements))
        if self.random.random() < 0.5:
            self.both(f"kill {number}", lambda s: s.kill(number))
        else:
            self.both(f"roll back {number}", lambda s: s.sql(number, "ROLLBACK"))

    def _checkpoint(self, number: int) -> None:
        kind = self.random.choice(["PASSIVE", "FULL", "TRUNCATE"])
        self.both(f"{kind} by {number}", lambda s: s.sql(number, f"PRAGMA wal_checkpoint({kind})"))

    def _end(self, number: int) -> None:
        end = self.random.choice(["close", "kill"])
        self.both(f"{end} {number}", lambda s: getattr(s, end)(number))

    def _by_hand(self) -> None:
        names = self.random.sample(self.names, 2)
        suffix = self.random.choice(SUFFIXES)
        way = self.random.choice(WAYS)
        if suffix == "-shm" and ("truncate" in way or "cp" in way or "dd" in way):
            return  # the kernel kills programs that have it mapped
        if "OTHER" in way and self.native.programs:
            return
        target = names[1] + self.random.choice([suffix, suffix, *SUFFIXES])

        def say(side: Side) -> str:
            words = {"DB": names[0], "OTHER": names[1], "F": names[0] + suffix, "T": target}
            words["K"] = f"'{side.copies}/kept'"
            return re.sub(r"\b(DB|OTHER|F|T|K)\b", lambda word: words[word[1]], way)

        self.both(say(self.native), lambda side: side.shell(say(side)))

    # --- the end

    def outcome(self, directory: Path, name: str, mode: str = "rw") -> Any:
        """What a program that comes now sees, when it has rolled back what was under way."""
        if not (directory / name).exists():
            return "none"
        with SqlProcess() as reader:
            try:
                reader.open(f"file:{directory / name}?mode={mode}", timeout_s=5.0, uri=True)
                found = reader.sql("PRAGMA integrity_check(1)")
                return [found, reader.sql("SELECT * FROM t ORDER BY a")]
            except SqlError as error:
                return error.kind


def is_whole(outcome: Any) -> bool:
    return isinstance(outcome, list) and outcome[0] == [("ok",)]


def follows(replica: Any, primary: Any) -> bool:
    """Of what is no whole database on the primary, a replica keeps the last state, or nothing."""
    if is_whole(primary):
        return bool(replica == primary)
    return replica == primary or replica == "none" or is_whole(replica)


def check(cluster: Cluster, tmp_path: Path, mode: str, seed: int) -> None:
    """One walk, and what it leaves."""
    walk = Walk(cluster, tmp_path, mode, seed)
    story = ""
    try:
        walk.run()
        primary, (replica,) = cluster.primary, cluster.replicas
        for name in walk.names:
            story = "\n".join(walk.steps)
            native = walk.outcome(walk.native.directory, name)
            mounted = walk.outcome(primary.mount, name)
            assert native == mounted, f"{name}\n{story}"
            eventually(
                lambda name=name, mounted=mounted: follows(
                    walk.outcome(replica.mount, name, "ro"), mounted
                ),
                what=f"the replica's {name} is as the primary's, {str(mounted)[:60]}\n{story}",
            )
    finally:
        for side in walk.sides:
            for number in list(side.programs):
                side.kill(number)
        walk.mounted.shell(f"rm -f {mode}{seed}*")
        shutil.rmtree(walk.native.directory)


@pytest.mark.diagonal
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("mode", MODES)
def test_files_when_moved_by_hand_then_mount_and_replicas_end_as_a_disk(
    shared: Cluster, tmp_path: Path, mode: str, seed: int
) -> None:
    """Whatever is done to which file, and whoever has it open."""
    check(shared, tmp_path, mode, seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(100, 200))
@pytest.mark.parametrize("mode", MODES)
def test_files_when_moved_by_hand_for_long_then_mount_and_replicas_end_as_a_disk(
    shared: Cluster, tmp_path: Path, mode: str, seed: int
) -> None:
    """The same for many walks."""
    check(shared, tmp_path, mode, seed)
