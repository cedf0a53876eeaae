"""The formula of docs/scaling.md and the simulation agree, and the tables there are theirs."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner

from litemq import cli
from litemq.actors.replicas import MAX_REPLICAS
from litemq.bench import scaling, scaling_tables
from litemq.bench.scaling import Costs, Node
from litemq.bench.scaling_tables import MEASURED
from litemq.transport.sockets import MAX_SOCKETS

DOCUMENT = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
#: round numbers: 1,000 bytes and 10 ms of a publisher's CPU for each receiver and transaction
ROUND = Costs(
    stream_bytes=910.0, stream_segments=1.0, idle_bytes_per_s=0.0, idle_segments_per_s=0.0,
    publish_us=10_000.0, publish_idle_us_per_s=0.0,
    wake_us=8_000.0, apply_us=2_000.0, apply_idle_us_per_s=0.0,
)  # fmt: skip


def cells(text: str) -> list[list[str]]:
    """The rows of every table in it."""
    found = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


@pytest.mark.parametrize("rate", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("bits_per_s", [1e9, 64_000.0], ids=["the CPU decides", "the link decides"])
@pytest.mark.parametrize("relay_levels", [0, 1, 2])
def test_simulation_when_fed_what_the_formula_says_then_it_keeps_up_and_not_with_more(
    rate: float, bits_per_s: float, relay_levels: int
) -> None:
    """At the planned part of a publisher lag stays; with twice as many it grows."""
    node = Node(bits_per_s, 1.0)
    fan_out = scaling.feeds(ROUND, rate, node).fan_out
    assert fan_out > 0
    fits = scaling.simulate(ROUND, rate, node, [fan_out] * (relay_levels + 1), 60)
    assert fits.keeps_up
    assert max(fits.publisher_busy, fits.link_busy) <= scaling.PLANNED + 1e-9
    more = scaling.simulate(ROUND, rate, node, [2 * fan_out] * (relay_levels + 1), 60)
    assert not more.keeps_up


def test_simulation_when_one_transaction_is_alone_then_its_lag_is_the_sum_of_the_path() -> None:
    """The last of three replicas: 3 times publishing, once the link, once applying."""
    (lag_s,) = scaling.simulate(ROUND, 1.0, Node(), [3], 1).last_lag_s
    assert lag_s == pytest.approx(3 * 0.010 + 1000 * 8 / 1e9 + 0.010)
    (lag_s,) = scaling.simulate(ROUND, 1.0, Node(), [3, 2], 1).last_lag_s
    assert lag_s == pytest.approx(5 * 0.010 + 2 * 1000 * 8 / 1e9 + 2 * 0.010)


def test_one_machine_when_there_is_time_then_busy_is_the_formula() -> None:
    """2 CPUs, 4 replicas, 5 transactions a second: 5 x 4 x (10 + 10) ms of 2 s."""
    found = scaling.simulate_one_machine(ROUND, 5.0, 4, 50, 2.0)
    assert found.publisher_busy == pytest.approx(0.2)
    assert found.keeps_up
    assert found.last_lag_s[0] == pytest.approx(4 * 0.010 + 2 * 0.010)


def test_one_machine_when_there_is_none_then_replicas_take_several_at_once() -> None:
    """What would need 1.5 times the machine, one by one, goes on with a lag that stays."""
    quick = dataclasses.replace(ROUND, publish_us=0.0)
    found = scaling.simulate_one_machine(quick, 20.0, 15, 400, 2.0)
    assert found.keeps_up
    assert found.last_lag_s[-1] > 1 / 20
    assert found == scaling.simulate_one_machine(quick, 20.0, 15, 400, 2.0)
    resting = dataclasses.replace(quick, apply_idle_us_per_s=1e6)
    with pytest.raises(ValueError, match="at rest"):
        scaling.simulate_one_machine(resting, 1.0, 2, 1, 2.0)


def test_document_when_read_then_its_inputs_are_those_of_the_program() -> None:
    """Each measured cost stands there by its name."""
    rows = {row[0].strip("`"): row[1] for row in cells(DOCUMENT) if len(row) > 1}
    for field in dataclasses.fields(Costs):
        assert float(rows[field.name].replace(",", "")) == getattr(MEASURED, field.name)


def test_document_when_read_then_its_table_is_the_simulation_s() -> None:
    """What the formula gives for these inputs, and in the simulation it keeps up."""
    wanted = [line.cells() for line in scaling_tables.lines()]
    assert [row for row in cells(DOCUMENT) if row in wanted] == wanted
    for line in scaling_tables.lines():
        for levels in scaling_tables.RELAY_LEVELS:
            fan_outs = [line.feeds.fan_out] * (levels + 1)
            found = scaling.simulate(MEASURED, line.rate, scaling_tables.NODE, fan_outs, 30)
            assert found.keeps_up
            assert max(found.publisher_busy, found.link_busy) <= scaling.PLANNED + 1e-9


def test_document_when_it_compares_with_the_benchmark_then_the_simulation_is_that() -> None:
    """The median lag of the last replica, and what was measured is within a factor of two."""
    rows = [row for row in cells(DOCUMENT) if len(row) == 3 and row[1].endswith(" ms")]
    assert [int(row[0]) for row in rows] == [20, 200]
    for replicas, simulated, measured in rows:
        found = scaling.simulate_one_machine(MEASURED, 20.0, int(replicas), 1200, 2.0)
        lag_ms = 1000 * statistics.median(found.last_lag_s)
        assert simulated == f"{lag_ms:.0f} ms"
        assert lag_ms / 2 < int(measured.removesuffix(" ms")) < lag_ms * 2


def test_node_when_taken_then_its_limit_is_the_publisher_s() -> None:
    """The formula knows how many replicas a publisher remembers, and may have sockets to."""
    assert scaling_tables.NODE.receivers == MAX_REPLICAS < MAX_SOCKETS


def test_bench_when_asked_for_scaling_then_it_prints_the_document_s_table() -> None:
    """Nothing is started for that."""
    done = CliRunner().invoke(cli.litemq, ["bench", "--only", "scaling"])
    assert done.exit_code == 0, done
    rows = [re.split(r"  +", line.strip()) for line in done.output.splitlines()]
    assert rows[1:] == [line.cells() for line in scaling_tables.lines()]
    done = CliRunner().invoke(cli.litemq, ["bench", "--only", "scaling", "--format", "json"])
    assert len(json.loads(done.output)["scaling"]) == len(scaling_tables.RATES)
