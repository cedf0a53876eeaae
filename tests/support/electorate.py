"""Nodes that elect their primary, the programs that use them, and what must be true of all of it.

Writers write to whichever node lets them, one on each; readers read everywhere (history.py). When a
scenario has ended, `settle` starts what is down, waits for a primary that takes writes, and
compares: all nodes are equal, every acknowledged row is there, or in a deposed node's diverged
history, and no epoch had two nodes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from history import mark, open_history
from leftovers import processes_below
from namespaces import Host
from nodes import Cluster, Node
from sql_process import SqlError
from waiting import eventually

from litemq.txlog import ltx
from litemq.txlog.position import Position
from litemq.txlog.segment_reader import SegmentReader

DATABASE = "a.db"
_HISTORY = Path(__file__).with_name("history.py")
#: what every change of primary may bring about
TURNS = (
    "the election needs attention",
    "primary is silent",
    "a repair failed",
    "can't read the WAL",
    "refused a primary of an older epoch",
    "the lease service refuses",  # on a busy machine a lease may end early
    "can't apply",
    "a transfer failed",  # it is asked for again
)
#: the last that a killed primary sent may have reached one replica and not the elected one
AHEAD = ("that the primary does not have are kept aside",)
#: the return of a node that had been the primary until it was killed or cut off
RETURN = (
    "the database had changed without its log",
    *AHEAD,
    "the database is not what the log says",
)


@dataclass(frozen=True, slots=True)
class Ack:
    """A row that SQLite has acknowledged."""

    node: str
    number: int
    epoch: int
    #: when its program asked for the commit, and when it was told (monotonic clock)
    asked_s: float
    told_s: float

    @property
    def mark(self) -> str:
        return mark(self.node, self.number)


class Electorate(Cluster):
    """Nodes of one cluster, any of which may be the primary."""

    def __init__(
        self, directory: Path, election: Mapping[str, Mapping[str, Any]] | None = None, *,
        size: int = 3, hosts: Sequence[Host] = (), mode: str = "wal", synchronous: str = "",
        start: bool = True, supervisor: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`election`: its sections of the configuration, by default with a lock file."""
        if not synchronous:  # what keeps every row when a node is killed
            cached = Node.write_back and election is not None
            synchronous = "FULL" if cached else "NORMAL"
        directory.mkdir(parents=True)
        self.directory = directory
        self.sections = dict(election or by_file(directory))
        if supervisor:
            self.sections["supervisor"] = supervisor
        self.mode, self.synchronous = mode, synchronous
        self.down: set[str] = set()
        self._nodes: list[Node] = []
        self._programs: list[subprocess.Popen[bytes]] = []
        self._befores = itertools.count(0, 1_000_000)
        Cluster.alive.append(self)
        for number in range(size):
            self.add(hosts[number] if hosts else None)
        if start:
            self.start()
            self.make_history()

    @property
    def nodes(self) -> list[Node]:
        return self._nodes

    def add(self, host: Host | None = None, name: str = "", **sections: Any) -> Node:
        """One more node, that does not run yet."""
        name = name or f"n{len(self._nodes) + 1}"
        place = {} if host is None else {"host": host.ip, "inside": host.inside}
        node = Node(
            self.directory / f"{name}-{len(self._nodes)}", name,
            sections=self.sections | sections, **place,
        )  # fmt: skip
        node.announce(*TURNS)
        self._nodes.append(node)
        return node

    def make_history(self) -> None:
        """The database that writers and readers use, on every node."""
        eventually(self._make, what="a primary takes writes")
        self.agree(DATABASE)

    def _make(self) -> bool:
        with self.primary.connect(DATABASE) as app:
            outcomes = app.ask("attempts", ["DROP TABLE IF EXISTS tally", *open_history(self.mode)])
        errors = [each for each in outcomes if each[0] == "error"]
        assert not errors, errors
        return True

    # --- who is what

    @property
    def primary(self) -> Node:
        """Of those that can be asked, the one that serves in the highest epoch."""
        found = [(status.epoch, node) for node, status in self._primaries()]
        assert found, "no node is primary"
        return max(found, key=lambda each: each[0])[1]

    @property
    def replicas(self) -> list[Node]:
        primary = self.primary
        return [node for node in self._awake() if node is not primary]

    def _awake(self) -> list[Node]:
        return [node for node in self._nodes if node.running and node.name not in self.down]

    def _primaries(self) -> Iterable[tuple[Node, Any]]:
        for node in self._awake():
            status = node.status()
            if status is not None and status.role == "primary" and status.ready:
                yield node, status

    def wait_primary(self, *, other_than: Node | None = None, timeout_s: float = 20.0) -> Node:
        """Wait until a node (another than that) is the primary; that node."""

        def find() -> Node:
            node = self.primary
            assert node is not other_than, f"{node.name} is still the primary"
            return node

        found: Node = eventually(find, timeout_s=timeout_s, what="a primary is elected")
        return found

    def _all_know_their_role(self) -> bool:
        """A deposed one learns of it a moment later, while the new one may be slow to answer."""
        roles = sorted(role(node) for node in self._awake())
        return roles == sorted(["primary"] + ["replica"] * (len(roles) - 1))

    def announce(self, *events: str) -> None:
        """For all nodes."""
        for node in self._nodes:
            node.announce(*events)

    # --- what is done to whole nodes

    def kill(self, *nodes: Node) -> None:
        """kill -9 of every process, at once as far as that goes."""
        self.announce(*AHEAD)
        for node in nodes:
            node.announce(*RETURN)
            node._let_go()
            node.signal_all(signal.SIGKILL)
        for node in nodes:
            node.wait()
            eventually(lambda node=node: not processes_below(node.directory), what="all are dead")

    def freeze(self, node: Node) -> None:
        """SIGSTOP for every process."""
        node.announce(*RETURN, "actor gives no sign of life", "actor ended")
        node._let_go()
        self.down.add(node.name)
        node.signal_all(signal.SIGSTOP)

    def wake(self, node: Node) -> None:
        node.signal_all(signal.SIGCONT)
        self.down.discard(node.name)

    # --- programs

    def write(self, *nodes: Node) -> None:
        """A writer for each of these nodes, or all."""
        for node in nodes or self._nodes:
            before = next(self._befores)
            self._run("writer", node, self._acks(node), node.name, self.synchronous, str(before))

    def read(self, *nodes: Node) -> None:
        """A reader for each of these nodes, or all."""
        for node in nodes or self._nodes:
            self._run("reader", node, self._findings(node))

    def _run(self, role: str, node: Node, file: Path, *rest: str) -> None:
        self._programs.append(
            subprocess.Popen(
                [
                    sys.executable, "-S", str(_HISTORY), role, str(node.mount / DATABASE),
                    str(node.data_dir), str(file), *rest,
                ],
                cwd=self.directory,
            )
        )  # fmt: skip

    def quiet(self) -> None:
        """End all writers and readers."""
        for program in self._programs:
            program.kill()
        for program in self._programs:
            program.wait()
        self._programs.clear()

    def _acks(self, node: Node) -> Path:
        return self.directory / f"acks-{node.directory.name}"

    def _findings(self, node: Node) -> Path:
        return self.directory / f"findings-{node.directory.name}"

    # --- what was acknowledged

    def acks(self, *nodes: Node) -> list[Ack]:
        """In the order of their times."""
        found = []
        for node in nodes or self._nodes:
            path = self._acks(node)
            for line in path.read_text().splitlines() if path.exists() else ():
                number, epoch, asked_ns, told_ns = map(int, line.split())
                found.append(Ack(node.name, number, epoch, asked_ns / 1e9, told_ns / 1e9))
        return sorted(found, key=lambda ack: ack.told_s)

    def wait_acks(
        self, count: int = 50, *, nodes: Sequence[Node] = (), timeout_s: float = 20.0
    ) -> float:
        """Wait until that many rows more than now are acknowledged; when the first one was."""
        before = len(self.acks(*nodes))
        eventually(
            lambda: len(self.acks(*nodes)) >= before + count,
            timeout_s=timeout_s,
            what=f"{count} rows are acknowledged",
        )
        return self.acks(*nodes)[before].told_s

    # --- what must be true in the end

    def settle(self, *, timeout_s: float = 40.0) -> list[str]:
        """Check all; the marks of the rows that are in diverged histories only."""
        self.wait_acks(10, timeout_s=timeout_s)  # somebody takes writes
        self.quiet()
        for node in self._nodes:
            if not node.running:
                node.start(ready=False)
        for node in self._nodes:
            node.wait_ready(timeout_s=timeout_s)
        eventually(self._roll_back, timeout_s=timeout_s, what="the primary can be read")
        self.agree(DATABASE, timeout_s=timeout_s)
        rows = self._rows(self.primary)
        for node in self.replicas:
            assert self._rows(node) == rows, f"{node.name} has other rows"
        acks = self.acks()
        self._check_epochs(acks, rows)
        self._check_readers()
        return self._check_nothing_lost(acks, {text for _, text, _ in rows})

    def _roll_back(self) -> bool:
        """What a killed writer had begun; not of a primary that is just being deposed."""
        try:
            with self.primary.connect(DATABASE) as app:
                return bool(app.sql("SELECT total FROM tally"))
        except SqlError as error:
            raise AssertionError(str(error)) from error

    def _rows(self, node: Node) -> list[tuple[int, str, int]]:
        with node.connect(DATABASE) as app:
            assert app.sql("PRAGMA integrity_check") == [("ok",)], node.name
            assert app.sql("SELECT id, mark FROM pair") == app.sql("SELECT id, mark FROM entry")
            return app.sql("SELECT id, mark, epoch FROM entry ORDER BY id")

    def _check_epochs(self, acks: list[Ack], rows: list[tuple[int, str, int]]) -> None:
        """One node an epoch, and time never runs backwards.

        A commit counts somewhere between the moment that it was asked for and the one that its
        program was told: an answer may be on its way while its node stands still.
        """
        nodes = defaultdict(set)
        for ack in acks:
            assert ack.epoch > 0, f"acknowledged outside of any term: {ack}"
            nodes[ack.epoch].add(ack.node)
        assert all(len(each) == 1 for each in nodes.values()), f"epochs of two nodes: {nodes}"
        epochs = [epoch for *_, epoch in rows]
        assert epochs == sorted(epochs), "rows of an older epoch came later"
        assert [number for number, *_ in rows] == list(range(1, len(rows) + 1))
        told, asked = {}, {}
        for ack in acks:
            told.setdefault(ack.epoch, ack.told_s)
            asked[ack.epoch] = max(asked.get(ack.epoch, 0.0), ack.asked_s)
        for older, newer in itertools.pairwise(sorted(told)):
            assert asked[older] < told[newer], f"epochs {older} and {newer} overlap"

    def _check_readers(self) -> None:
        for node in self._nodes:
            path = self._findings(node)
            found = path.read_text() if path.exists() else ""
            wrong = [line for line in found.splitlines() if line.startswith("wrong")]
            assert not wrong, f"a reader on {node.name}: {wrong[:10]}"

    def _check_nothing_lost(self, acks: list[Ack], present: set[str]) -> list[str]:
        missing = [ack for ack in acks if ack.mark not in present]
        if not missing:
            return []
        kept = b"\n".join(page for node in self._nodes for page in diverged_pages(node))
        lost = [ack for ack in missing if ack.mark.encode() not in kept]
        assert not lost, f"{len(lost)} of {len(acks)} rows are nowhere: {lost[:5]}"
        return [ack.mark for ack in missing]

    def level(self) -> None:
        """Wait until all nodes show the same position, whether or not there is a primary."""
        eventually(
            lambda: len({node.position(DATABASE) for node in self._awake()}) == 1,
            what="all nodes are equally far",
        )

    def agree_now(self) -> None:
        """Wait until all have what was written so far; writers pause meanwhile."""
        for program in self._programs:
            program.send_signal(signal.SIGSTOP)
        try:
            self.agree(DATABASE)
        finally:
            for program in self._programs:
                program.send_signal(signal.SIGCONT)

    def agree(self, database: str, *, timeout_s: float = 20.0) -> Position:
        deadline_s = time.monotonic() + timeout_s
        eventually(self._all_know_their_role, timeout_s=timeout_s, what="one primary, and replicas")
        return super().agree(database, timeout_s=max(deadline_s - time.monotonic(), 1.0))

    def wake_all(self) -> None:
        """Whoever uses a frozen mount can't even be killed."""
        for node in self._nodes:
            if node.name in self.down:
                self.wake(node)

    def close(self) -> list[str]:
        self.wake_all()
        self.quiet()
        return super().close()

    def _is_primary(self, node: Node) -> bool:
        return node.running and role(node) == "primary"


def role(node: Node) -> str:
    """Of a node, "" of one that does not answer."""
    status = node.status()
    return status.role if status is not None else ""


@contextlib.contextmanager
def deposing(cluster: Electorate, old: Node) -> Iterator[None]:
    """Another node serves already, and the old primary has not been told."""
    watcher = old.actor("election_watcher").pid
    old.announce("actor gives no sign of life", "actor ended")
    os.kill(watcher, signal.SIGSTOP)
    try:
        cluster.wait_acks(20)
        yield
    finally:
        os.kill(watcher, signal.SIGCONT)


def diverged_pages(node: Node) -> list[bytes]:
    """Every page in the histories that a deposed node has kept."""
    pages = []
    for kept in sorted((node.data_dir / "diverged").glob("*")):
        reader = SegmentReader(kept / "log")
        txid, last = reader.range()
        while 0 < txid <= last:
            for record in reader.read(txid, 4 << 20):
                pages += [data for _, data in ltx.decode(record).pages]
                txid += 1
    return pages


def by_file(directory: Path) -> dict[str, dict[str, Any]]:
    """The configuration of nodes that elect through a lock file."""
    return {"election": {"kind": "file", "path": str(directory / "lease")}}


def by_consul(address: str, key: str, ttl: str = "1s") -> dict[str, dict[str, Any]]:
    """The configuration of nodes that elect through Consul."""
    return {
        "election": {"kind": "consul"},
        "election.consul": {"address": address, "key": key, "ttl": ttl},
    }
