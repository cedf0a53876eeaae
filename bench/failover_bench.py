"""The second part of the benchmark: failover trials for every election, and what they have given.

Each election has its own cluster, Consul included; what this machine lacks is skipped and named.
Always true: whatever was started is ended again, namespaces too; a trial that went wrong is in the
report, and so is what was not run because of it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from litemq.bench import consul, hosts, run_names, scenarios
from litemq.bench.cluster import Election, LocalCluster, by_consul, by_file
from litemq.bench.consul import LocalConsul
from litemq.bench.failover import NODES, Trial, Trials, prepare
from litemq.bench.hosts import Host, Network
from litemq.bench.scenarios import CABLE, CRASH, HANDOFF, KILL, SIGTERM, STOP, Scenario
from litemq.errors import LiteMQError

#: name of an election, and the TTL of its lease in Consul, if it is there
ELECTIONS = {"consul-1s": "1s", "consul-500ms": "500ms", "file": ""}
_PREFIX = f"litemq-bench-{os.getuid()}-"
_CONSUL = "consul"


@dataclass(frozen=True, slots=True)
class FailoverPlan:
    """How many trials of each scenario of each election, and where temporary files go."""

    trials: int
    elections: tuple[str, ...]
    scenarios: tuple[str, ...]
    directory: Path | None
    #: of elections in Consul
    write_back: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """All trials of one scenario. `measured` says what the figures are: from the stroke to the
    first row elsewhere, or between the last row before and the first after.
    """

    election: str
    scenario: str
    title: str
    measured: str
    trials: list[Trial]

    @property
    def times_ms(self) -> list[float]:
        pause = self.measured == "pause"
        return [each.pause_ms if pause else each.after_ms for each in self.trials]

    @property
    def right(self) -> bool:
        return all(each.right for each in self.trials)

    def sums(self) -> dict[str, int]:
        """Of all trials: rows acknowledged, present, diverged, lost, overlapping, late."""
        counted = [asdict(each.account) for each in self.trials]
        return {key: sum(each[key] for each in counted) for key in counted[0]}

    @property
    def crashes(self) -> int:
        """Writers that a signal has killed, in all trials."""
        return sum(each.crashes for each in self.trials)

    def as_json(self) -> dict[str, Any]:
        times = self.times_ms
        figures = {"p50": statistics.median(times), "min": min(times), "max": max(times)}
        return {
            "election": self.election,
            "scenario": self.scenario,
            "measured": self.measured,
            "ms": figures,
            "rows": self.sums(),
            "crashes": self.crashes,
            "trials": [asdict(each) for each in self.trials],
        }


@dataclass(slots=True)
class FailoverReport:
    """What was measured, what was skipped and why, and what went wrong."""

    trials: int
    results: list[Result] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.failed and all(each.right for each in self.results)

    def as_json(self) -> dict[str, Any]:
        return {
            "trials": self.trials,
            "scenarios": [each.as_json() for each in self.results],
            "skipped": self.skipped,
            "failed": self.failed,
        }


def run(plan: FailoverPlan, say: Callable[[str], None]) -> FailoverReport:
    """All trials. `say` gets a word on what is under way. Raises LiteMQError when nodes can't be
    started or ended; a trial that fails is in the report.
    """
    bench = _FailoverBench(plan, say)
    wanted = [name for name in ELECTIONS if name in plan.elections]
    for name in wanted:
        if not ELECTIONS[name]:
            bench.by_file(name)
    in_consul = [name for name in wanted if ELECTIONS[name]]
    if in_consul and bench.can(consul.missing(), f"elections in Consul ({', '.join(in_consul)})"):
        bench.by_consul(in_consul)
        cable = CABLE in plan.scenarios
        if cable and bench.can(hosts.missing(), "pulled cables (network namespaces)"):
            bench.in_namespaces(in_consul)
    order = list(ELECTIONS)
    bench.report.results.sort(key=lambda each: order.index(each.election))
    return bench.report


class _FailoverBench:
    """The groups of trials, and what they have given so far."""

    def __init__(self, plan: FailoverPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self.report = FailoverReport(plan.trials)

    def can(self, why_not: str, what: str) -> bool:
        if why_not:
            self.report.skipped.append(f"{what}: {why_not}")
        return not why_not

    # --- groups: one cluster each

    def by_file(self, name: str) -> None:
        if STOP.name in self._plan.scenarios:
            self.can(
                "a stopped process keeps its lock, so nobody takes over", f"{name}, {STOP.title}"
            )
        self._group(name, by_file, self._wanted(KILL, CRASH, HANDOFF, SIGTERM))

    def by_consul(self, names: list[str]) -> None:
        wanted = self._wanted(KILL, CRASH, STOP, HANDOFF, SIGTERM)
        if not wanted:
            return
        with self._consul(None) as address:
            for name in names:
                self._group(name, _key(address, name), wanted)

    def in_namespaces(self, names: list[str]) -> None:
        _sweep()
        network = Network(run_names.run_name(_PREFIX), (*NODES, _CONSUL))
        try:
            with self._consul(network.hosts[_CONSUL]) as address:
                for name in names:
                    places = [network.hosts[node] for node in NODES]
                    wanted = [scenarios.unplugged(network)]
                    self._group(name, _key(address, name), wanted, places)
        finally:
            network.close()

    @contextlib.contextmanager
    def _consul(self, host: Host | None) -> Iterator[str]:
        """Its address."""
        self._say("failover: starting Consul")
        with (
            TemporaryDirectory(prefix="litemq-", dir=self._plan.directory) as directory,
            LocalConsul(Path(directory) / "consul", host) as server,
        ):
            yield server.address

    def _wanted(self, *possible: Scenario) -> list[Scenario]:
        return [each for each in possible if each.name in self._plan.scenarios]

    def _group(
        self,
        name: str,
        election: Election,
        wanted: list[Scenario],
        places: list[Host] | None = None,
    ) -> None:
        if not wanted:
            return
        self._say(f"failover, {name}: starting three nodes")
        with LocalCluster(
            NODES, below=self._plan.directory, election=election, hosts=places or (),
            write_back=self._plan.write_back and bool(ELECTIONS[name]),
        ) as cluster:  # fmt: skip
            prepare(cluster)
            trials = Trials(cluster)
            for scenario in wanted:
                if not self._scenario(name, scenario, trials):
                    break
            if cluster.keep_files:
                self.report.failed.append(f"{name}: the nodes' files are in {cluster.directory}")

    def _scenario(self, name: str, scenario: Scenario, trials: Trials) -> bool:
        """Whether the cluster can go on."""
        found: list[Trial] = []
        total = self._plan.trials
        failure = ""
        for number in range(1, total + 1):
            self._say(f"failover, {name}, {scenario.title}: trial {number} of {total}")
            try:
                found.append(trials.run(scenario))
            except LiteMQError as error:
                failure = str(error)
            else:
                failure = found[-1].wrong
            if failure:
                self.report.failed.append(f"{name}, {scenario.title}, trial {number}: {failure}")
                break
        if found:
            measured = "pause" if scenario.graceful else "after"
            result = Result(name, scenario.name, scenario.title, measured, found)
            self.report.results.append(result)
        return not failure


def _key(address: str, name: str) -> Election:
    return by_consul(address, f"litemq-bench/{name}", ELECTIONS[name])


def _sweep() -> None:
    """Remove the namespaces of benchmarks that were killed."""
    if hosts.NETNS.exists():
        for path in hosts.NETNS.glob(f"{_PREFIX}*"):
            if run_names.is_dead(_PREFIX, path.name):
                hosts.remove(path.name)


def table_rows(report: FailoverReport) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the trials, for people."""
    head = ["ELECTION", "SCENARIO", "MEASURED", "P50", "MIN", "MAX"]
    head += ["ACKED", "DIVERGED", "LOST", "OVERLAP", "LATE", "CRASHES"]
    rows = []
    for each in report.results:
        times, sums = each.times_ms, each.sums()
        figures = [
            f"{value:,.0f} ms" for value in (statistics.median(times), min(times), max(times))
        ]
        counts = [sums[key] for key in ("acknowledged", "diverged", "lost", "overlapping", "late")]
        what = "pause" if each.measured == "pause" else "to first write"
        rows.append(
            [each.election, each.title, what, *figures, *map(str, counts), str(each.crashes)]
        )
    return head, rows
