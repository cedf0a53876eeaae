"""`litemq bench` measures what it says and leaves nothing. No figure is judged here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from capabilities import require_fuse
from commands import litemq

from litemq.bench import workload
from litemq.bench.measure import Figure

pytestmark = pytest.mark.fuse

WORKLOADS = [
    "WAL/NORMAL",
    "WAL/FULL",
    "DELETE/FULL",
    "big transactions",
    "point reads WAL",
    "point reads DELETE",
]


def test_bench_when_run_then_json_has_every_figure_and_nothing_is_left(tmp_path: Path) -> None:
    """Ratios, commit to visible, memory; the directory is as it was."""
    require_fuse()
    done = litemq(
        "bench", "--rounds", "1", "--seconds", "0.2", "--visible-seconds", "1",
        "--format", "json", "--directory", tmp_path,
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
