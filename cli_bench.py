"""`litemq bench` and `litemq demo`: clusters on this machine, and how what they give is shown.

Never measures itself: that is done in `bench/`. Always true: what was started is ended before the
command returns, also at Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from litemq.cli_common import table
from litemq.errors import LiteMQError

if TYPE_CHECKING:
    from litemq.bench.accounts import Account
    from litemq.bench.calls import Calls
    from litemq.bench.demo import Row
    from litemq.bench.everyday import Slowdown
    from litemq.bench.failover_bench import FailoverReport
    from litemq.bench.fanout import FanoutReport
    from litemq.bench.huge import HugeReport
    from litemq.bench.measure import Report

WRITES, FAILOVER, CALLS = "writes", "failover", "calls"
FANOUT, SCALING, HUGE, EVERYDAY = "fanout", "scaling", "huge", "everyday"
#: as in bench/failover_bench.py and bench/scenarios.py, which are imported when they are needed
ELECTIONS = ("consul-1s", "consul-500ms", "file")
SCENARIOS = ("kill", "crash", "stop", "cable", "handoff", "sigterm")


@click.command()
@click.option(
    "--only",
    type=click.Choice([WRITES, FAILOVER, CALLS, FANOUT, SCALING, HUGE, EVERYDAY]),
    help="One of the parts. [default: writes, calls, failover]",
)
@click.option(
    "--quick", is_flag=True, help="3 rounds of half a second, 2 trials: a first impression."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    help="Length of every single run. [default: 1.5; fanout: 60]",
)
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds of all workloads. [default: 5]")
@click.option(
    "--visible-seconds",
    type=click.FloatRange(0.5, 600),
    help="How long commits are timed until they are visible. [default: 10]",
)
@click.option(
    "--write-back",
    is_flag=True,
    help="Primaries with `[mount] write-back = true` (failovers: those elected in Consul).",
)
@click.option(
    "--trials", type=click.IntRange(1, 1000), help="Trials of each failover. [default: 10]"
)
@click.option(
    "--election",
    "elections",
    type=click.Choice(ELECTIONS),
    multiple=True,
    help="Failovers with this election; may be repeated. [default: all]",
)
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(SCENARIOS),
    multiple=True,
    help="Failovers of this kind; may be repeated. [default: all]",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 1000),
    default=200,
    show_default=True,
    help="How many there are in a fan-out.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 10_000),
    default=20.0,
    show_default=True,
    help="Transactions a second of a fan-out.",
)
@click.option(
    "--gibibytes",
    type=click.FloatRange(0.01, 10_000),
    default=10.0,
    show_default=True,
    help="Size of a huge database.",
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True, resolve_path=True),
    default="/var/tmp",  # noqa: S108 - a directory of our own is made in it, mode 0700
    show_default=True,
    help="Where the temporary files go; on the disk that is to be measured.",
)
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def bench(
    only: str | None,
    quick: bool,
    seconds: float | None,
    rounds: int | None,
    visible_seconds: float | None,
    write_back: bool,
    trials: int | None,
    elections: tuple[str, ...],
    scenarios: tuple[str, ...],
    replicas: int,
    rate: float,
    gibibytes: float,
    directory: Path,
    style: str,
) -> None:
    """Measure the mount against native SQLite, failovers, and a fan-out.

    Writes: one-row inserts of 100 bytes, transactions of 1,000 rows, point reads of one transaction
    each, with one replica attached; runs of both sides alternate on the same disk, and ratios are
    medians over the rounds (more is better, 1 is native). Then the time from commit to visible on
    the replica, and the memory of both nodes.

    Failover: three nodes elect with a lock file, and with a Consul of their own (if there is the
    program consul). The primary is killed, stopped, unplugged (needs root), or hands over, while
    programs write; then every row that SQLite acknowledged is looked for. Exit code 1 if one is
    lost, or if the old primary accepted one after the new one had.

    Calls: how many FUSE calls a one-row commit costs in each journal mode, as the kernel counts
    them (needs root).

    Fan-out: one primary, many replicas without FUSE, all on this machine, and one program that
    writes. Lag of the first, the median and the last replica, bytes, CPU time, memory; exit code 1
    if a replica is not equal to the primary at the end. It takes 45 MiB for each replica. Scaling:
    what follows from its figures for one primary, and for relays (docs/scaling.md).

    Huge: one database of 10 GiB on a primary and a replica, made by one transaction, changed, and
    copied in; how long that takes, and the most memory that each actor has had. It takes five times
    the size on the disk.

    Everyday: what programs do beside committing (open and close, a cache that is too small, VACUUM,
    savepoints, temporary files, backup): how long one takes on both sides, and its FUSE calls where
    they can be counted.

    \b
    Examples:
      litemq bench
      litemq bench --quick --only writes
      litemq bench --only failover --election file --scenario kill --trials 3
      litemq bench --only fanout --replicas 50 --seconds 20
      litemq bench --only scaling
      litemq bench --only huge --gibibytes 1
      litemq bench --only everyday --rounds 3
      litemq bench --format json --directory /data >bench.json
    """
    from litemq.bench import calls, everyday, failover_bench, fanout, huge, measure, scaling_tables
    from litemq.bench.processes import terminated_like_interrupted

    plan = measure.Plan(
        rounds=rounds or (3 if quick else 5),
        seconds=seconds or (0.5 if quick else 1.5),
        visible_seconds=visible_seconds or (4.0 if quick else 10.0),
        directory=directory,
        write_back=write_back,
    )
    failover_plan = failover_bench.FailoverPlan(
        trials=trials or (2 if quick else 10),
        elections=elections or ELECTIONS,
        scenarios=scenarios or SCENARIOS,
        directory=directory,
        write_back=write_back,
    )
    live = sys.stderr.isatty()

    def say(word: str) -> None:
        if live:
            click.echo(f"\r\x1b[2K{word}", nl=False, err=True)

    written: Report | None = None
    failed_over: FailoverReport | None = None
    counted: list[Calls] = []
    uncounted = calls.unavailable() if only in (None, CALLS) else ""
    if only == CALLS and uncounted:
        raise LiteMQError(uncounted)
    fanned_out: FanoutReport | None = None
    grown: HugeReport | None = None
    slowed: list[Slowdown] = []
    try:
        with terminated_like_interrupted():
            if only in (None, WRITES):
                written = measure.run(plan, say)
            if only in (None, CALLS) and not uncounted:
                counted = calls.count(directory, say, write_back=write_back)
            if only in (None, FAILOVER):
                failed_over = failover_bench.run(failover_plan, say)
            if only == FANOUT:
                fanned_out = fanout.run(
                    fanout.FanoutPlan(replicas, rate, seconds or 60.0, directory), say
                )
            if only == HUGE:
                grown = huge.run(huge.HugePlan(gibibytes, directory, write_back), say)
            if only == EVERYDAY:
                slowed = everyday.run(
                    everyday.EverydayPlan(plan.rounds, directory, write_back), say
                )
    finally:
        say("")
    if style == "json":
        found: dict[str, Any] = {} if written is None else written.as_json()
        found |= {"machine": measure.machine()}
        if counted:
            found[CALLS] = [each.as_json() for each in counted]
        if failed_over is not None:
            found[FAILOVER] = failed_over.as_json()
        if fanned_out is not None:
            found[FANOUT] = fanned_out.as_json()
        if grown is not None:
            found[HUGE] = grown.as_json()
        if slowed:
            found[EVERYDAY] = [each.as_json() for each in slowed]
        if only == SCALING:
            found[SCALING] = [each.as_json() for each in scaling_tables.lines()]
        click.echo(json.dumps(found, indent=2))
    else:
        for line in _lines(written, counted, uncounted, failed_over):
            click.echo(line)
        if fanned_out is not None:
            for line in _fanout_lines(fanned_out):
                click.echo(line)
        if grown is not None:
            for line in (*table(*huge.table_rows(grown), right={1, 2, 3}), *huge.words(grown), ""):
                click.echo(line)
        if slowed:
            for line in (*table(*everyday.table_rows(slowed), right={1, 2, 3, 4, 5}), ""):
                click.echo(line)
        if only == SCALING:
            rows = [each.cells() for each in scaling_tables.lines()]
            for line in table(scaling_tables.HEAD, rows, right=set(range(8))):
                click.echo(line)
        else:
            click.echo(_machine_line())
    if failed_over is not None and not failed_over.right:
        raise LiteMQError("a failover went wrong; the report says where")
    if fanned_out is not None and not fanned_out.right:
        raise LiteMQError("the fan-out went wrong; the report says where")


def _fanout_lines(report: FanoutReport) -> Iterator[str]:
    from litemq.bench import fanout_table

    yield from table(fanout_table.HEAD, fanout_table.lag_rows(report), right={1, 2})
    yield "from a commit on the primary until so many replicas showed it"
    yield ""
    yield from fanout_table.words(report)
    yield ""


def _lines(
    written: Report | None,
    counted: list[Calls],
    uncounted: str,
    failed_over: FailoverReport | None,
) -> Iterator[str]:
    from litemq.bench import calls, failover_bench, measure

    if written is not None:
        head, rows = measure.table_rows(written)
        yield from table(head, rows, right={2, 3, 4, 5, 6, 7})
        visible, pss = written.visible_ms, written.pss_bytes
        yield ""
        yield (
            f"commit to visible on the replica: p50 {visible['p50']:.2f} ms, "
            f"p99 {visible['p99']:.2f} ms ({visible['samples']:.0f} commits)"
        )
        yield (
            f"memory (PSS) of all actors: primary {pss['primary'] / (1 << 20):.1f} MiB, "
            f"replica {pss['replica'] / (1 << 20):.1f} MiB"
        )
        mode = ", write-back" if written.plan["write_back"] else ""
        yield f"{written.plan['rounds']} rounds of {written.plan['seconds']:g} s{mode}"
        yield ""
    if counted:
        yield from table(*calls.table_rows(counted), right={1})
        yield ""
    if uncounted:
        yield f"skipped: {uncounted}"
        yield ""
    if failed_over is not None:
        head, rows = failover_bench.table_rows(failed_over)
        yield from table(head, rows, right=set(range(3, len(head))))
        yield ""
        yield "to first write: from the stroke to the first row that another node acknowledged"
        yield "pause: from the last row of the old primary to the first of the new one"
        yield "overlap: rows that the old primary began and acknowledged after the new one's first"
        yield "late: rows that it had begun before that, and answered after it"
        yield "crashes: writers that a signal killed (SIGBUS, where a mount went away under them)"
        yield f"{failed_over.trials} trials each"
        yield from (f"skipped: {each}" for each in failed_over.skipped)
        yield from (f"FAILED: {each}" for each in failed_over.failed)
        yield ""


def _machine_line() -> str:
    from litemq.bench import measure

    machine = measure.machine()
    return (
        f"{machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}, "
        f"SQLite {machine['sqlite']}"
    )


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop by itself after so many seconds; without it, at Ctrl-C.",
)
def demo(seconds: float | None) -> int:
    """Run three nodes on this machine, show them at work, and kill the primary.

    They elect with a lock file. Programs write on whichever is the primary. Half-way, or after 5
    seconds, every process of that node is killed; another takes over, and later the killed one
    comes back. All lives in a temporary directory and is gone afterwards. Exit code 0 when all
    nodes ended equal (same TXID, same checksum, same rows), and every acknowledged row was on the
    new primary or listed as diverged.

    \b
    Examples:
      litemq demo
      litemq demo --seconds 10
    """
    from litemq.bench.demo import Demo

    live = sys.stdout.isatty()
    drawn = 0

    def say(word: str) -> None:
        nonlocal drawn
        drawn = 0  # what was drawn stays above this line
        click.echo(word)

    def show(rows: list[Row], rate: float) -> None:
        nonlocal drawn
        if live:
            drawn = redraw([*_node_lines(rows), f"{rate:.0f} rows a second; Ctrl-C stops"], drawn)
            return
        click.echo(f"{', '.join(map(_node_words, rows))}; {rate:.0f} rows/s")

    outcome = Demo(seconds=seconds, say=say, show=show).run()
    for line in _node_lines(outcome.rows):
        click.echo(line)
    click.echo(_account_line(outcome.account, outcome.primary))
    if not outcome.equal:
        raise LiteMQError("the nodes did not end equal")
    if not outcome.account.right:
        raise LiteMQError("acknowledged rows are lost, or were accepted by two nodes at once")
    click.echo("all nodes are equal")
    return 0


def _node_lines(rows: list[Row]) -> Iterator[str]:
    yield from table(
        ["NODE", "ROLE", "TXID", "CHECKSUM", "LAG", "ROWS"],
        [
            [
                each.node,
                each.role,
                str(each.txid),
                each.checksum,
                f"{each.lag_ms} ms",
                str(each.rows),
            ]
            if _answers(each)
            else [each.node, each.role, *["-"] * 4]
            for each in rows
        ],
        right={2, 4, 5},
    )


def _node_words(row: Row) -> str:
    if not _answers(row):
        return f"{row.node} {row.role}"
    return f"{row.node} {row.role} TXID {row.txid} lag {row.lag_ms} ms rows {row.rows}"


def _answers(row: Row) -> bool:
    return row.role in ("primary", "replica")


def _account_line(account: Account, primary: str) -> str:
    overlap = f", {account.overlapping} overlap" if account.overlapping else ""
    return (
        f"{account.acknowledged} rows acknowledged: {account.present} on {primary}, "
        f"{account.diverged} listed as diverged, {account.lost} lost{overlap}"
    )


def redraw(lines: list[str], drawn: int) -> int:
    """Write the lines over the `drawn` lines above the cursor; how many there are now."""
    if drawn:
        click.echo(f"\x1b[{drawn}A", nl=False)
    for line in lines:
        click.echo(f"\x1b[2K{line}")
    return len(lines)
