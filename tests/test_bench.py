"""`litemq bench` measures what it says and leaves nothing. No figure is judged here."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from capabilities import require_fuse, require_program
from click.testing import CliRunner
from commands import litemq
from namespaces import Network

from litemq import cli, cli_bench
from litemq.bench import (
    accounts,
    calls,
    everyday,
    failover,
    failover_bench,
    hosts,
    scenarios,
    workload,
)
from litemq.bench.accounts import Account, Ack
from litemq.bench.cluster import LocalCluster, by_file
from litemq.bench.everyday_work import OPERATIONS
from litemq.bench.failover import Trial, Trials
from litemq.bench.failover_bench import FailoverReport, Result
from litemq.bench.local_node import LocalNode
from litemq.bench.measure import Figure
from litemq.bench.scenarios import Scenario
from litemq.errors import LiteMQError

pytestmark = pytest.mark.fuse


def cached(write_back: bool) -> list[str]:
    """The option that has a primary of `litemq bench` do what those of tests do."""
    return ["--write-back"] if write_back else []


WORKLOADS = [
    "WAL/NORMAL",
    "WAL/FULL",
    "DELETE/FULL",
    "big transactions",
    "point reads WAL",
    "point reads DELETE",
]


def test_huge_when_run_then_every_step_and_actor_has_its_figure(
    tmp_path: Path, write_back: bool
) -> None:
    """With a database that is not huge; nothing is left of it."""
    require_fuse()
    done = litemq(
        "bench", "--only", "huge", "--gibibytes", "0.08", "--format", "json",
        "--directory", tmp_path, *cached(write_back),
    )  # fmt: skip
    assert done.code == 0, done
    report = json.loads(done.out)["huge"]
    assert len(report["steps"]) == 4
    for each in report["steps"]:
        assert 0 < each["mount_s"] <= each["replica_s"]
    assert report["database_bytes"] > 80_000_000
    assert set(report["peak_bytes"]["huge-a"]) > {"fuse_capture", "log_writer"}
    assert "replica_applier" in report["peak_bytes"]["huge-b"]
    assert all(peak for each in report["peak_bytes"].values() for peak in each.values())
    assert list(tmp_path.iterdir()) == []


def test_bench_when_run_then_json_has_every_figure_and_nothing_is_left(
    tmp_path: Path, write_back: bool
) -> None:
    """Ratios, commit to visible, memory; the directory is as it was."""
    require_fuse()
    done = litemq(
        "bench", "--only", "writes", "--rounds", "1", "--seconds", "0.2", "--visible-seconds", "1",
        "--format", "json", "--directory", tmp_path, *cached(write_back),
    )  # fmt: skip
    assert done.code == 0, done
    report = json.loads(done.out)
    assert [each["name"] for each in report["comparisons"]] == WORKLOADS
    for each in report["comparisons"]:
        assert each["native"]["median"] > 0
        assert each["mount"]["median"] > 0
        assert each["ratio"]["low"] <= each["ratio"]["median"] <= each["ratio"]["high"]
    assert 0 < report["visible_ms"]["p50"] <= report["visible_ms"]["p99"]
    assert report["pss_bytes"]["primary"] > 1 << 20
    assert report["pss_bytes"]["replica"] > 1 << 20
    assert list(tmp_path.iterdir()) == []


def test_everyday_when_run_then_every_operation_has_its_figures(
    tmp_path: Path, write_back: bool
) -> None:
    """On both sides, twice instead of many times; and the calls of those that must make some."""
    require_fuse()
    few = [replace(each, times=2) for each in OPERATIONS if "20 MB" not in each.name]
    plan = everyday.EverydayPlan(1, tmp_path, write_back, few)
    found = everyday.run(plan, lambda _: None)
    assert [each.name for each in found] == [each.name for each in few]
    for each in found:
        assert each.native_ms.median > 0
        assert each.mount_ms.median > 0
        if not calls.unavailable() and "open" in each.name:
            assert each.calls["OPEN"] >= 1
    assert len(everyday.table_rows(found)[1]) == len(few)
    assert list(tmp_path.iterdir()) == []


def test_inserts_when_done_then_every_transaction_is_in_the_file(tmp_path: Path) -> None:
    """What is counted is what is committed; the rate limits it."""
    path = str(tmp_path / "a.db")
    fast = workload.inserts(path, "WAL", "NORMAL", seconds=0.1, rows=10)
    assert fast["rows"] == 10 * (fast["transactions"] + 1)
    slow = workload.inserts(str(tmp_path / "b.db"), "DELETE", "FULL", seconds=0.2, rate=50.0)
    assert slow["transactions"] == slow["rows"] <= 12


def test_figure_when_made_then_it_is_median_and_spread() -> None:
    """The middle, and how far off the others were."""
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0)


def test_bench_when_calls_are_counted_then_every_mode_has_some(
    tmp_path: Path, write_back: bool
) -> None:
    """A commit writes at least a page; only synchronous=NORMAL in WAL mode syncs nothing.

    Where the kernel caches writes, such a commit makes no call; what is counted is others'.
    """
    require_fuse()
    done = litemq(
        "bench", "--only", "calls", "--format", "json", "--directory", tmp_path, *cached(write_back)
    )
    if reason := calls.unavailable():  # root and tracing are not everywhere: then it says so
        assert done.code != 0
        assert reason in done.err
        return
    assert done.code == 0, done
    counted = {each["mode"]: each["calls"] for each in json.loads(done.out)["calls"]}
    assert len(counted) == len(calls.MODES)
    for mode, kinds in counted.items():
        if write_back and mode == "WAL/NORMAL":
            assert sum(kinds.values()) < 1
        else:
            assert kinds["WRITE"] >= 1
        assert (kinds.get("FSYNC", 0) >= 1) == (mode != "WAL/NORMAL"), mode
    assert list(tmp_path.iterdir()) == []


# --- failover


def failovers(directory: Path, election: str, *names: str) -> list[dict[str, Any]]:
    """The scenarios of a report of one trial each, in which nothing may have gone wrong."""
    require_fuse()
    done = litemq(
        "bench", "--only", "failover", "--trials", "1", "--election", election,
        *(word for name in names for word in ("--scenario", name)),
        "--format", "json", "--directory", directory,
    )  # fmt: skip
    assert done.code == 0, done
    report = json.loads(done.out)
    assert "comparisons" not in report
    assert report["failover"]["failed"] == report["failover"]["skipped"] == []
    found: list[dict[str, Any]] = report["failover"]["scenarios"]
    assert [each["scenario"] for each in found] == list(names)
    for each in found:
        assert each["election"] == election
        assert 0 < each["ms"]["min"] <= each["ms"]["p50"] <= each["ms"]["max"]
        rows = each["rows"]
        assert rows["acknowledged"] == rows["present"] + rows["diverged"] > failover.ROWS_BEFORE
        assert rows["lost"] == rows["overlapping"] == 0
        assert len(each["trials"]) == 1
    assert list(directory.iterdir()) == []
    return found


def test_bench_when_primaries_fail_then_the_report_accounts_for_every_row(tmp_path: Path) -> None:
    """A kill is timed from the stroke, a hand-over between two rows; nothing is left behind."""
    kill, crash, handoff = failovers(tmp_path, "file", "kill", "crash", "handoff")
    assert [each["measured"] for each in (kill, crash, handoff)] == ["after", "after", "pause"]
    assert handoff["rows"]["diverged"] == 0


@pytest.mark.consul
def test_bench_when_primaries_fail_with_consul_then_it_brings_its_own(tmp_path: Path) -> None:
    """It starts and ends it, and tells the nodes where it is."""
    require_program("consul")
    failovers(tmp_path, "consul-500ms", "kill", "crash")


def kill_when_nobody_hears(node: LocalNode) -> None:
    """Have it take rows that nobody else gets."""
    status = node.status()
    assert status is not None
    (publisher,) = [each.pid for each in status.actors if each.name == "stream_publisher"]
    psutil.Process(publisher).send_signal(signal.SIGSTOP)
    time.sleep(0.3)  # rows that are only here, as many as there are
    node.kill()


def test_trial_when_rows_were_only_on_the_old_primary_then_they_count_as_diverged(
    tmp_path: Path,
) -> None:
    """They are found in what its node has kept, row by row, and none counts as lost."""
    require_fuse()
    scenario = Scenario("unheard", "unheard", False, kill_when_nobody_hears, LocalNode.start)
    with LocalCluster(failover.NODES, below=tmp_path, election=by_file) as cluster:
        failover.prepare(cluster)
        trial = Trials(cluster).run(scenario)
        assert not cluster.keep_files
    assert trial.right, trial
    assert trial.account.diverged > 20
    assert trial.account.present + trial.account.diverged == trial.account.acknowledged


def ack(node: str, number: int, began: int, told: int) -> Ack:
    return Ack(node, number, began, told)


OLD = [ack("a", 1, 10, 11), ack("a", 2, 12, 13)]
FIRST = ack("b", 1, 20, 21)


@pytest.mark.parametrize(
    ("more", "present", "diverged", "counts"),
    [
        ([], {("a", 1): 1, ("a", 2): 2, ("b", 1): 3}, set(), (3, 3, 0, 0, 0, 0)),
        ([], {("a", 1): 1, ("b", 1): 2}, {("a", 2)}, (3, 2, 1, 0, 0, 0)),
        ([], {("a", 1): 1, ("b", 1): 2}, set(), (3, 2, 0, 1, 0, 0)),
        (
            [ack("a", 3, 14, 30)],
            {("a", 1): 1, ("a", 2): 2, ("b", 1): 3},
            {("a", 3)},
            (4, 3, 1, 0, 0, 1),
        ),
        (
            [ack("a", 3, 22, 30)],
            {("a", 1): 1, ("a", 2): 2, ("b", 1): 3},
            {("a", 3)},
            (4, 3, 1, 0, 1, 0),
        ),
        (
            [ack("a", 3, 22, 30)],
            {("a", 1): 1, ("a", 2): 2, ("b", 1): 3, ("a", 3): 4},
            set(),
            (4, 4, 0, 0, 0, 0),
        ),
    ],
    ids=["all there", "diverged", "lost", "late", "overlapping", "primary again"],
)
def test_account_when_settled_then_every_row_is_counted_once(
    more: list[Ack],
    present: dict[tuple[str, int], int],
    diverged: set[tuple[str, int]],
    counts: tuple[int, ...],
) -> None:
    """Acknowledged, present, diverged, lost; overlapping, late."""
    found = accounts.settle([*OLD, FIRST, *more], present, diverged, FIRST, "a")
    assert found == Account(*counts)
    assert found.right == (not found.lost and not found.overlapping)


@pytest.mark.parametrize(
    ("account", "failed", "right"),
    [
        (Account(5, 5, 0, 0, 0, 1), [], True),
        (Account(5, 4, 0, 1, 0, 0), [], False),
        (Account(5, 5, 0, 0, 1, 0), [], False),
        (Account(5, 5, 0, 0, 0, 0), ["nodes did not become equal"], False),
    ],
    ids=["well", "lost", "overlapping", "failed"],
)
@pytest.mark.parametrize("style", ["table", "json"])
def test_bench_when_a_failover_goes_wrong_then_it_reports_and_fails(
    account: Account, failed: list[str], right: bool, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is printed either way."""
    result = Result("file", "kill", "a kill", "after", [Trial(100.0, 90.0, account, 0, "")])
    report = FailoverReport(1, [result], [], failed)
    monkeypatch.setattr(failover_bench, "run", lambda _plan, _say: report)
    done = CliRunner().invoke(cli.litemq, ["bench", "--only", "failover", "--format", style])
    assert isinstance(done.exception, LiteMQError) == (not right), done
    assert "a kill" in done.output or json.loads(done.output)["failover"]["trials"] == 1
    assert all(each in done.output for each in failed)


def test_options_when_listed_then_they_are_what_there_is() -> None:
    """The command line repeats the names, so that `--help` need not import the benchmark."""
    assert tuple(failover_bench.ELECTIONS) == cli_bench.ELECTIONS
    assert scenarios.NAMES == cli_bench.SCENARIOS


def test_network_when_closed_then_no_namespace_is_left() -> None:
    """Also when what ran there has been killed: nothing of it holds one."""
    network = Network("one", "other")
    made = [host.namespace for host in network.hosts.values()]
    assert all((hosts.NETNS / each).exists() for each in made)
    network.close()
    assert not any((hosts.NETNS / each).exists() for each in made)
