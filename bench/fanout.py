"""The third part of the benchmark: one primary, many replicas without FUSE, a steady writer.

All nodes are real ones (`litemq up`) on this machine. First nothing is written, which tells what
they cost by themselves; then a program writes at a fixed rate, and lag, bytes and CPU time are
measured. Always true: at the end every file has been read and compared; a report with something
in `failed` is one of a run that went wrong.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from litemq.bench import equality, usage, workload
from litemq.bench.cluster import LocalCluster
from litemq.bench.lags import Lag, Lookout
from litemq.bench.local_node import LocalNode
from litemq.bench.tcp_counters import Traffic, traffic
from litemq.errors import LiteMQError
from litemq.txlog.position import ZERO, Position, parse

DATABASE = "fanout.db"
ROW_BYTES = 100
#: of the time that is written, before that, nothing is
IDLE_SHARE, IDLE_MAX_S = 0.25, 10.0
#: how long replicas may need for what is left when the writer has ended
CATCH_UP_S = 60.0
SATURATED = 0.9
_CAUGHT_UP_LOOK_S = 0.1
#: the supervisor's name for the actors of a primary
PUBLISHER, OTHERS = "stream_publisher", ("fuse_capture", "log_writer")


@dataclass(frozen=True, slots=True)
class FanoutPlan:
    """How many replicas, and how much is written."""

    replicas: int
    rate: float
    seconds: float
    directory: Path | None


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment."""

    at_s: float
    publisher_cpu_s: float
    others_cpu_s: float
    replicas_cpu_s: float
    machine_ticks: tuple[int, int]
    stream: Traffic
    requests: Traffic


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one transaction for one replica (`_per_tx`), or of one replica and one second in which
    nothing is written (`_idle_per_s`). The publisher's CPU time is that for all replicas together.
    """

    stream_bytes_per_tx: float
    stream_segments_per_tx: float
    ack_bytes_per_tx: float
    stream_bytes_idle_per_s: float
    ack_bytes_idle_per_s: float
    publisher_cpu_us_per_tx: float
    publisher_cpu_us_idle_per_s: float
    capture_cpu_us_per_tx: float
    replica_cpu_us_per_tx: float
    replica_cpu_us_idle_per_s: float


@dataclass(slots=True)
class FanoutReport:
    """What was measured, and what went wrong."""

    replicas: int
    rate: float
    seconds: float
    start_s: float
    processes_per_replica: float
    transactions: int
    #: first, median, last replica
    lags: dict[str, Lag]
    look_ms: float
    cost: Cost
    #: of all CPUs of the machine, while it was written
    busy_share: float
    #: of one CPU, while it was written, all included
    publisher_cpu_share: float
    replica_cpu_share: float
    pss_bytes: dict[str, int]
    failed: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.failed

    @property
    def saturated(self) -> bool:
        """Whether there was no CPU left: then costs for each transaction are those of batches."""
        return self.busy_share > SATURATED

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(plan: FanoutPlan, say: Callable[[str], None]) -> FanoutReport:
    """Start the nodes, measure, compare, stop them. Raises LiteMQError when nodes can't be started
    or ended; replicas that are not equal at the end are in the report.
    """
    say(f"fan-out: starting {plan.replicas} replicas")
    begin_s = time.monotonic()
    names = [f"replica-{number}" for number in range(1, plan.replicas + 1)]
    with LocalCluster(["primary"], below=plan.directory, plain=names) as cluster:
        report = _Fanout(cluster, plan, say).run(time.monotonic() - begin_s)
        if not report.right:
            cluster.keep_files = True
            report.failed.append(f"the nodes' files are in {cluster.directory}")
    return report


class _Fanout:
    """One run."""

    def __init__(self, cluster: LocalCluster, plan: FanoutPlan, say: Callable[[str], None]) -> None:
        self._cluster, self._plan, self._say = cluster, plan, say
        self._primary, *self._replicas = cluster.nodes
        self._actors: dict[str, int] = {}
        self._replica_pids: list[int] = []

    def run(self, start_s: float) -> FanoutReport:
        plan = self._plan
        self._prepare()
        status = self._primary.status()
        if status is None:
            raise LiteMQError("the primary does not answer")
        self._actors = {each.name: each.pid for each in status.actors}
        self._replica_pids = [pid for node in self._replicas for pid in node.pids()]
        self._say("fan-out: nothing is written")
        before = self._read()
        time.sleep(min(IDLE_MAX_S, plan.seconds * IDLE_SHARE))
        idle = self._read()
        self._say(f"fan-out: {plan.rate:g} transactions a second for {plan.seconds:g} s")
        base = _position(self._primary)
        with self._lookout() as lookout:
            told = self._write(lookout)
            after = self._read()
            expected = base.txid + len(told)
            late_s = time.monotonic() + CATCH_UP_S
            lookout.look_while(lambda: lookout.slowest < expected and time.monotonic() < late_s)
            lags = lookout.lags(base.txid + 1, told)
        if not lags:
            raise LiteMQError("a replica got nothing; `litemq tail` on its node tells why")
        busy, ticks = (
            now - then for now, then in zip(after.machine_ticks, idle.machine_ticks, strict=True)
        )
        written_s = after.at_s - idle.at_s
        report = FanoutReport(
            replicas=plan.replicas,
            rate=plan.rate,
            seconds=written_s,
            start_s=start_s,
            processes_per_replica=len(self._replica_pids) / plan.replicas,
            transactions=len(told),
            lags={
                "first": Lag.of([each[0] for each in lags]),
                "median": Lag.of([each[len(each) // 2] for each in lags]),
                "last": Lag.of([each[-1] for each in lags]),
            },
            look_ms=lookout.looking_s / lookout.looks * 1000,
            cost=_cost(before, idle, after, len(told), plan.replicas),
            busy_share=busy / max(1, ticks),
            publisher_cpu_share=(after.publisher_cpu_s - idle.publisher_cpu_s) / written_s,
            replica_cpu_share=(after.replicas_cpu_s - idle.replicas_cpu_s)
            / written_s
            / plan.replicas,
            pss_bytes={
                "primary": self._primary.pss_bytes(),
                "replica": int(statistics.median([node.pss_bytes() for node in self._replicas])),
            },
        )
        self._say("fan-out: comparing")
        report.failed += self._differences(expected)
        return report

    # --- the work

    def _prepare(self) -> None:
        """A table with one row on every replica, so that nothing but transactions is measured."""
        try:
            workload.inserts(
                str(self._primary.database(DATABASE)), "WAL", "NORMAL", seconds=0.001, rate=1.0
            )
        except OSError as error:
            raise LiteMQError(f"{DATABASE} can't be made: {error}") from error
        head = self._primary.head(DATABASE)
        if head is None:
            raise LiteMQError(f"the primary's log knows nothing of {DATABASE}")
        self._wait_positions(head.position.value)

    def _wait_positions(self, wanted: Position) -> list[str]:
        """Who has another position after all."""
        deadline_s = time.monotonic() + CATCH_UP_S
        while True:
            behind = [node.name for node in self._replicas if _position(node) != wanted]
            if not behind or time.monotonic() > deadline_s:
                return behind
            time.sleep(_CAUGHT_UP_LOOK_S)

    def _lookout(self) -> Lookout:
        primary, *replicas = [node.layout.position(DATABASE) for node in self._cluster.nodes]
        try:
            return Lookout(primary, replicas)
        except OSError as error:
            raise LiteMQError(f"a replica does not follow: {error}") from error

    def _write(self, lookout: Lookout) -> list[int]:
        """Have a program write; when each of its transactions was acknowledged."""
        writer = self._cluster.work(
            work="inserts", path=self._primary.database(DATABASE), mode="WAL",
            synchronous="NORMAL", row_bytes=ROW_BYTES, rate=self._plan.rate,
            seconds=self._plan.seconds, tell_times=self._cluster.directory / "told",
        )  # fmt: skip
        lookout.look_while(lambda: writer.poll() is None)
        result = self._cluster.result(writer)
        told = (self._cluster.directory / "told").read_text().split()
        assert len(told) == result["transactions"]
        return [int(each) for each in told]

    # --- figures

    def _read(self) -> Reading:
        stream = self._primary.config.stream
        ports = [_port(stream.pub_address), _port(stream.request_address)]
        counted = traffic(ports)
        return Reading(
            at_s=time.monotonic(),
            publisher_cpu_s=usage.cpu_s([self._actors[PUBLISHER]]),
            others_cpu_s=usage.cpu_s([self._actors[name] for name in OTHERS]),
            replicas_cpu_s=usage.cpu_s(self._replica_pids),
            machine_ticks=usage.machine_ticks(),
            stream=counted[ports[0]],
            requests=counted[ports[1]],
        )

    # --- the end

    def _differences(self, txid: int) -> list[str]:
        """In words; empty if every file is the primary's state after that TXID."""
        head = self._primary.head(DATABASE)
        assert head is not None
        wanted = head.position.value
        if wanted.txid != txid:
            return [f"the primary is at TXID {wanted.txid}, its program made {txid}"]
        behind = self._wait_positions(wanted)
        if behind:
            return [f"{len(behind)} replicas are not at {wanted.text}, the first is {behind[0]}"]
        path = self._primary.database(DATABASE)
        tail = equality.tail_of(path)
        its = equality.content(path, "t", head.pages, tail)
        if its.checksum != wanted.checksum:
            return [f"{path} is not what its position says"]
        return [
            f"{node.name} has {wanted.text}, but not the primary's pages and rows"
            for node in self._replicas
            if equality.content(node.database(DATABASE), "t", head.pages, tail) != its
        ]


def _position(node: LocalNode) -> Position:
    """As its file says; zero if there is none."""
    try:
        text = node.layout.position(DATABASE).read_text("ascii").strip()
    except OSError:
        return ZERO
    return parse(text) if text else ZERO


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _cost(begin: Reading, idle: Reading, end: Reading, count: int, replicas: int) -> Cost:
    """What came on top of an idle node's costs, for each transaction, and those themselves."""
    idle_s, written_s = idle.at_s - begin.at_s, end.at_s - idle.at_s
    quiet, busy = idle.stream - begin.stream, end.stream - idle.stream
    asked, acked = idle.requests - begin.requests, end.requests - idle.requests
    count = max(1, count)

    def on_top(then: float, now: float) -> float:
        return (now - then / idle_s * written_s) / count

    def each(value: float) -> float:
        return value / replicas

    publisher = idle.publisher_cpu_s - begin.publisher_cpu_s
    others = idle.others_cpu_s - begin.others_cpu_s
    work = idle.replicas_cpu_s - begin.replicas_cpu_s
    return Cost(
        stream_bytes_per_tx=each(on_top(quiet.sent_bytes, busy.sent_bytes)),
        stream_segments_per_tx=each(on_top(quiet.sent_segments, busy.sent_segments)),
        ack_bytes_per_tx=each(on_top(asked.received_bytes, acked.received_bytes)),
        stream_bytes_idle_per_s=each(quiet.sent_bytes / idle_s),
        ack_bytes_idle_per_s=each(asked.received_bytes / idle_s),
        publisher_cpu_us_per_tx=1e6 * on_top(publisher, end.publisher_cpu_s - idle.publisher_cpu_s),
        publisher_cpu_us_idle_per_s=1e6 * publisher / idle_s,
        capture_cpu_us_per_tx=1e6 * on_top(others, end.others_cpu_s - idle.others_cpu_s),
        replica_cpu_us_per_tx=1e6 * each(on_top(work, end.replicas_cpu_s - idle.replicas_cpu_s)),
        replica_cpu_us_idle_per_s=1e6 * each(work / idle_s),
    )
