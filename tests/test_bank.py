"""Money moves on the primary, is counted on the replicas, while processes are being killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from nodes import Cluster, Node
from waiting import eventually

BANK = Path(__file__).with_name("support") / "bank.py"
PATIENT = {"supervisor": {"crash-limit": 1000}}
#: what a killed process, and a mount that dies with it, make the others say
KILLED = (
    "actor ended",
    "can't apply",
    "can't read the WAL",
    "torn tail",
    "primary is silent",
    "had changed without its log",
    "housekeeping failed",
    "a transfer failed",
    "a repair failed",
)
OPEN = (
    "import sys; sys.path.insert(0, sys.argv[1]); import bank; "
    "bank.open_bank(sys.argv[2], sys.argv[3], sys.argv[4])"
)
ACTORS = {
    "primary": ["fuse_capture", "log_writer", "stream_publisher"],
    "replica": ["fuse_capture", "replica_applier"],
}


class Bank:
    """The tellers on a cluster's primary and the auditors on its replicas."""

    def __init__(self, cluster: Cluster, mode: str, synchronous: str) -> None:
        self.cluster = cluster
        self.mode = mode
        self.synchronous = synchronous
        self.path = cluster.primary.mount / "bank.db"
        self._programs: list[subprocess.Popen[bytes]] = []
        self._tellers: dict[int, subprocess.Popen[bytes]] = {}
        subprocess.run(
            [sys.executable, "-c", OPEN, str(BANK.parent), str(self.path), mode, synchronous],
            check=True,
        )
        cluster.agree("bank.db")

    def acks(self, number: int) -> Path:
        return self.cluster.directory / f"acks-{number}"

    def findings(self, node: Node) -> Path:
        return self.cluster.directory / f"findings-{node.name}"

    def hire(self, number: int) -> None:
        self._tellers[number] = self._run(
            "teller", self.path, self.acks(number), str(number), self.mode, self.synchronous
        )

    def audit(self, node: Node) -> None:
        self._run("auditor", node.mount / "bank.db", self.findings(node))

    def _run(self, *arguments: object) -> subprocess.Popen[bytes]:
        program = subprocess.Popen([sys.executable, str(BANK), *map(str, arguments)])
        self._programs.append(program)
        return program

    def kill_teller(self, number: int) -> None:
        """In the middle of whatever it does; another takes its place."""
        self._tellers[number].kill()
        self._tellers[number].wait()
        self.hire(number)

    def acknowledged(self, number: int) -> list[int]:
        text = self.acks(number).read_text() if self.acks(number).exists() else ""
        return [int(line) for line in text.split("\n")[:-1]]

    def close(self) -> None:
        for program in self._programs:
            program.kill()
        for program in self._programs:
            program.wait()


@contextmanager
def a_bank(cluster: Cluster, mode: str, synchronous: str, tellers: int) -> Iterator[Bank]:
    bank = Bank(cluster, mode, synchronous)
    try:
        for number in range(tellers):
            bank.hire(number)
        for replica in cluster.replicas:
            bank.audit(replica)
        yield bank
    finally:
        bank.close()


def check(bank: Bank, tellers: int) -> None:
    """When all is quiet: nothing acknowledged is missing, all agree, nobody saw a wrong state."""
    cluster = bank.cluster
    for node in cluster.nodes:
        if node.running:
            node.wait_ready()
        if node.running and node.fuse:  # its actor may have been killed just now
            eventually(lambda node=node: os.path.exists(node.mount / "bank.db"))
    with cluster.primary.connect("bank.db") as db:
        db.one("SELECT count(*) FROM account")  # rolls back what a killed teller left half done
    cluster.agree("bank.db", timeout_s=60)
    for node in cluster.nodes:
        with node.connect("bank.db") as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            for number in range(tellers):
                rows = reader.sql("SELECT number FROM transfer WHERE teller=?", number)
                present = {row[0] for row in rows}
                acknowledged = bank.acknowledged(number)
                assert acknowledged, f"teller {number} did nothing"
                assert not set(acknowledged) - present, f"lost on {node.name}, teller {number}"
    for replica in cluster.replicas:
        lines = bank.findings(replica).read_text().splitlines()
        assert not [line for line in lines if line.startswith("wrong")]
        assert any(line.startswith("audits") for line in lines), f"{replica.name} was not audited"


def work_for(seconds: float, chance: random.Random, act: Callable[[], None]) -> None:
    """Act at random moments until the time is over."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(chance.uniform(0.2, 1.2))
        act()


def kill_something(bank: Bank, chance: random.Random) -> None:
    """An actor of any node, or an application."""
    node = chance.choice(bank.cluster.nodes)
    if chance.random() < 0.2:
        bank.kill_teller(0)
        return
    names = ACTORS["primary" if node is bank.cluster.primary else "replica"]
    name = chance.choice([each for each in names if node.fuse or each != "fuse_capture"])
    status = node.status()
    for actor in status.actors if status is not None else []:
        if actor.name == name and actor.pid:
            os.kill(actor.pid, signal.SIGKILL)


def run_bank(new_cluster: Callable[..., Cluster], mode: str, sync: str, seconds: float) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster = new_cluster(replicas=1, plain=1, sections=PATIENT)
    for node in cluster.nodes:
        node.announce(*KILLED)
    with a_bank(cluster, mode, sync, tellers=3) as bank:
        for number in range(3):
            eventually(
                lambda teller=number: bank.acknowledged(teller),
                timeout_s=60,
                what=f"the first transfer of teller {number}",
            )
        work_for(seconds, chance, lambda: kill_something(bank, chance))
    check(bank, 3)


@pytest.mark.fuse
@pytest.mark.caches
@pytest.mark.diagonal
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_bank_when_actors_are_killed_then_nothing_is_lost_and_no_reader_sees_half(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """kill -9 of actors and applications under load: money, order and acknowledgements hold."""
    # where writes are cached, the FUSE actor and the log writer at once are a power failure
    run_bank(new_cluster, mode, "FULL" if Node.write_back else "NORMAL", 7)


@pytest.mark.torture
@pytest.mark.fuse
@pytest.mark.caches
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL"])
@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE", "PERSIST"])
def test_bank_when_actors_are_killed_for_long_then_nothing_is_lost(
    new_cluster: Callable[..., Cluster], mode: str, synchronous: str
) -> None:
    """The same over all journal modes, for two minutes each."""
    if Node.write_back and mode == "WAL":
        synchronous = "FULL"
    run_bank(new_cluster, mode, synchronous, 120)


@pytest.mark.fuse
@pytest.mark.caches
@pytest.mark.diagonal
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_bank_when_the_whole_primary_is_killed_then_it_comes_back_with_everything(
    new_cluster: Callable[..., Cluster], mode: str
) -> None:
    """kill -9 of every process of the primary, under load, again and again."""
    cluster = new_cluster(replicas=1, sections=PATIENT)
    for node in cluster.nodes:
        node.announce(*KILLED)
    # where writes are cached, this is a power failure to SQLite
    synchronous = "FULL" if Node.write_back else "NORMAL"
    with a_bank(cluster, mode, synchronous, tellers=2) as bank:
        for _ in range(3):
            before = len(bank.acknowledged(0))
            eventually(lambda before=before: len(bank.acknowledged(0)) > before + 50, timeout_s=60)
            cluster.primary.kill()
            cluster.primary.start()
    check(bank, 2)


@pytest.mark.fuse
def test_bank_when_the_whole_replica_is_killed_then_it_catches_up(
    new_cluster: Callable[..., Cluster],
) -> None:
    """kill -9 of every process of a replica under load; its readers never go back in time."""
    cluster = new_cluster(replicas=1, sections=PATIENT)
    for node in cluster.nodes:
        node.announce(*KILLED)
    (replica,) = cluster.replicas
    with a_bank(cluster, "WAL", "NORMAL", tellers=2) as bank:
        for _ in range(3):
            before = len(bank.acknowledged(0))
            eventually(lambda before=before: len(bank.acknowledged(0)) > before + 50, timeout_s=60)
            replica.kill()
            replica.start()
    check(bank, 2)


def test_bank_when_a_transfer_is_half_then_an_auditor_says_so(tmp_path: Path) -> None:
    """The auditor itself can fail: it notices a changed sum."""
    path = tmp_path / "bank.db"
    subprocess.run(
        [sys.executable, "-c", OPEN, str(BANK.parent), str(path), "WAL", "NORMAL"], check=True
    )
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE account SET balance=balance+1 WHERE id=1")
        db.commit()
    findings = tmp_path / "findings"
    program = subprocess.Popen([sys.executable, str(BANK), "auditor", str(path), str(findings)])
    try:
        eventually(lambda: findings.exists() and "wrong: the sum" in findings.read_text())
    finally:
        program.kill()
        program.wait()
