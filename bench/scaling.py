"""How many replicas a link and a CPU can feed, directly and by way of relays: a formula, and a
simulation that does not know it.

Pure: no clock, no files, no network; the same inputs give the same figures. Inputs are what was
measured (docs/scaling.md). Always true: a relay costs what a replica costs, and a publisher on top.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

#: of a link and of a CPU, what is planned with: the rest is for whatever else there is
PLANNED = 0.8
#: on the wire, per segment: Ethernet (preamble, header, checksum, gap), IPv4, TCP with timestamps
SEGMENT_BYTES = 38 + 20 + 32


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one transaction and one receiver, unless it says otherwise; measured on one machine."""

    #: on the stream, ZeroMQ's framing included, and in how many TCP segments
    stream_bytes: float
    stream_segments: float
    #: of a replica in which nothing happens: heartbeats, and their segments
    idle_bytes_per_s: float
    idle_segments_per_s: float
    #: of a publisher's CPU: for each receiver, and for each receiver and second at rest
    publish_us: float
    publish_idle_us_per_s: float
    #: of a replica's CPUs: for waking up, whatever there is to do; then for each transaction; and
    #: in each second at rest
    wake_us: float
    apply_us: float
    apply_idle_us_per_s: float


@dataclass(frozen=True, slots=True)
class Node:
    """What every node has."""

    link_bits_per_s: float = 1e9
    #: a publisher is one process that does one thing at a time
    publisher_cpus: float = 1.0
    #: replicas that a publisher remembers (docs/protocol.md, Limits)
    receivers: int = 1024


@dataclass(frozen=True, slots=True)
class Feeds:
    """How many receivers one publisher feeds at a rate: by its link, by its CPU, by its limit."""

    by_link: int
    by_cpu: int
    limit: int

    @property
    def fan_out(self) -> int:
        return min(self.by_link, self.by_cpu, self.limit)

    def replicas(self, relay_levels: int) -> int:
        """The leaves of a tree in which every publisher feeds as many as it can."""
        return int(self.fan_out ** (relay_levels + 1))


def wire_bytes_per_s(costs: Costs, rate: float) -> float:
    """What one receiver takes of its publisher's link, at so many transactions a second."""
    return rate * _stream_bytes(costs) + _idle_bytes_per_s(costs)


def _stream_bytes(costs: Costs) -> float:
    return costs.stream_bytes + costs.stream_segments * SEGMENT_BYTES


def _idle_bytes_per_s(costs: Costs) -> float:
    return costs.idle_bytes_per_s + costs.idle_segments_per_s * SEGMENT_BYTES


def publisher_cpu(costs: Costs, rate: float) -> float:
    """The share of a CPU that one receiver takes of its publisher."""
    return (rate * costs.publish_us + costs.publish_idle_us_per_s) / 1e6


def replica_cpu(costs: Costs, rate: float) -> float:
    """The share of a CPU that one replica takes where it runs and keeps up with each by itself."""
    return (rate * (costs.wake_us + costs.apply_us) + costs.apply_idle_us_per_s) / 1e6


def feeds(costs: Costs, rate: float, node: Node) -> Feeds:
    """The formula: what is planned with, divided by what one receiver takes."""
    link = PLANNED * node.link_bits_per_s / 8 / wire_bytes_per_s(costs, rate)
    cpu = PLANNED * node.publisher_cpus / publisher_cpu(costs, rate)
    return Feeds(int(link), int(cpu), node.receivers)


# --- the simulation


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of one run."""

    #: between two transactions (seconds)
    period_s: float
    #: from a commit until the last replica had applied it (seconds), of each transaction
    last_lag_s: list[float]
    #: of the run's time, what the primary's publisher and link were busy
    publisher_busy: float
    link_busy: float

    @property
    def keeps_up(self) -> bool:
        """Whether the lag has not grown by a transaction in the second half."""
        half = len(self.last_lag_s) // 2
        return self.last_lag_s[-1] - self.last_lag_s[half] <= self.period_s


class _Server:
    """Does one job after the other, in the order in which they come.

    A part of its time goes to what is there at rest; the jobs are slower by it.
    """

    def __init__(self, at_rest: float = 0.0) -> None:
        if at_rest >= 1:
            raise ValueError("what there is at rest leaves no time")
        self._at_rest = at_rest
        self._free_s = 0.0
        self._worked_s = 0.0

    def serve(self, at_s: float, takes_s: float) -> float:
        """When it is done."""
        self._free_s = max(self._free_s, at_s) + takes_s / (1 - self._at_rest)
        self._worked_s += takes_s
        return self._free_s

    def busy(self, run_s: float) -> float:
        """The part of that time in which it worked."""
        return self._at_rest + self._worked_s / run_s


class _Publisher:
    """A publisher's CPU and its link, which serves what the CPU has done."""

    def __init__(self, costs: Costs, node: Node, receivers: int) -> None:
        self._receivers = receivers
        self._publish_s = costs.publish_us / 1e6 / node.publisher_cpus
        self._send_s = 8 * _stream_bytes(costs) / node.link_bits_per_s
        self.cpu = _Server(receivers * costs.publish_idle_us_per_s / 1e6 / node.publisher_cpus)
        self.link = _Server(receivers * 8 * _idle_bytes_per_s(costs) / node.link_bits_per_s)

    def send(self, at_s: float) -> float:
        """When the last receiver has the transaction that is there at that moment."""
        arrived_s = at_s
        for _ in range(self._receivers):
            arrived_s = self.link.serve(self.cpu.serve(at_s, self._publish_s), self._send_s)
        return arrived_s


def simulate(
    costs: Costs, rate: float, node: Node, fan_outs: Sequence[int], transactions: int
) -> Simulated:
    """A tree of publishers, level by level, with so many receivers each; the last are replicas.

    Every node is a machine of its own.
    """
    # Where all subtrees are equal, the one that is served last is the last: it stands for all.
    chain = [_Publisher(costs, node, fan_out) for fan_out in fan_outs]
    applying = [_Server(costs.apply_idle_us_per_s / 1e6) for _ in fan_outs]
    takes_s = (costs.wake_us + costs.apply_us) / 1e6
    lags = []
    for number in range(transactions):
        began_s = at_s = number / rate
        for publisher, receiver in zip(chain, applying, strict=True):
            at_s = receiver.serve(publisher.send(at_s), takes_s)
        lags.append(at_s - began_s)
    run_s = transactions / rate
    return Simulated(1 / rate, lags, chain[0].cpu.busy(run_s), chain[0].link.busy(run_s))


def simulate_one_machine(
    costs: Costs, rate: float, replicas: int, transactions: int, cpus: float
) -> Simulated:
    """The benchmark: a publisher and all its replicas share `cpus`, first come, first served.

    `cpus` is what is left to them, and may be a fraction. A replica that gets its turn late takes
    all that has come meanwhile at once.
    """
    at_rest = replicas * (costs.apply_idle_us_per_s + costs.publish_idle_us_per_s) / 1e6
    left = cpus - at_rest
    if left <= 0:
        raise ValueError(f"{replicas} replicas at rest take {at_rest:.2f} CPUs, there are {cpus}")
    count = max(1, round(left))
    slower = count / left  # so many whole CPUs, which do their work by so much slower
    free = [0.0] * count
    sent = 0  # transactions that the publisher has sent
    arrived_s: list[float] = []  # when each of them was
    shown = [0] * replicas
    last_shown_s = [0.0] * transactions
    queue: deque[int] = deque()
    busy_s = 0.0

    def work(not_before_s: float, us: float) -> float:
        nonlocal busy_s
        takes_s = us / 1e6 * slower
        busy_s += takes_s
        done_s = max(heapq.heappop(free), not_before_s) + takes_s
        heapq.heappush(free, done_s)
        return done_s

    while sent < transactions or queue:
        # whose turn it is at the moment when a CPU is free
        now_s = max(free[0], sent / rate) if not queue else free[0]
        if sent < transactions and sent / rate <= now_s:
            done_s = work(sent / rate, replicas * costs.publish_us)
            sent += 1
            arrived_s.append(done_s)
            waiting = set(queue)
            queue.extend(each for each in range(replicas) if each not in waiting)
            continue
        number = queue.popleft()
        first = shown[number]
        if first == sent:
            continue
        done_s = work(arrived_s[first], costs.wake_us + (sent - first) * costs.apply_us)
        for each in range(first, sent):
            last_shown_s[each] = max(last_shown_s[each], done_s)
        shown[number] = sent
    lags = [shown_s - number / rate for number, shown_s in enumerate(last_shown_s)]
    return Simulated(1 / rate, lags, busy_s / count * rate / transactions, 0.0)
