"""`litemq bench --only fanout` compares what it says, measures what it says, and leaves nothing. No
figure is judged here.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from capabilities import require_fuse
from click.testing import CliRunner
from commands import litemq

from litemq import cli
from litemq.bench import equality, fanout, usage, workload
from litemq.bench.fanout import Cost, FanoutReport
from litemq.bench.lags import Lag, Lookout
from litemq.bench.tcp_counters import Traffic, traffic
from litemq.errors import LiteMQError
from litemq.txlog.position import Position

REPORT = FanoutReport(
    replicas=2, rate=20.0, seconds=1.0, start_s=1.0, processes_per_replica=3.0, transactions=20,
    lags={name: Lag(1.0, 2.0) for name in ("first", "median", "last")}, look_ms=2.0,
    cost=Cost(*[1.0] * 10), busy_share=0.5, publisher_cpu_share=0.1, replica_cpu_share=0.01,
    pss_bytes={"primary": 1 << 20, "replica": 1 << 20},
)  # fmt: skip


@pytest.mark.fuse
def test_fanout_when_run_then_all_replicas_are_equal_and_nothing_is_left(tmp_path: Path) -> None:
    """Lag from first to last, bytes and CPU time of a transaction, memory."""
    require_fuse()
    done = litemq(
        "bench", "--only", "fanout", "--replicas", "8", "--seconds", "2", "--format", "json",
        "--directory", tmp_path,
    )  # fmt: skip
    assert done.code == 0, done
    found = json.loads(done.out)["fanout"]
    assert found["failed"] == []
    assert found["replicas"] == 8
    assert found["transactions"] > 10
    lags = [found["lags"][name] for name in ("first", "median", "last")]
    assert 0 < lags[0]["p50_ms"] <= lags[1]["p50_ms"] <= lags[2]["p50_ms"]
    assert all(each["p50_ms"] <= each["p99_ms"] for each in lags)
    assert found["cost"]["stream_bytes_per_tx"] > fanout.ROW_BYTES
    assert found["publisher_cpu_share"] > 0
    assert found["replica_cpu_share"] > 0
    assert found["pss_bytes"]["replica"] > 1 << 20
    assert list(tmp_path.iterdir()) == []


def test_content_when_one_byte_differs_then_it_is_not_equal(tmp_path: Path) -> None:
    """Rows are compared as rows, pages as pages; SQLite's counters on page 1 do not count."""
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    workload.inserts(str(paths[0]), "DELETE", "OFF", seconds=0.05, rate=100.0)
    paths[1].write_bytes(paths[0].read_bytes())
    tail = equality.tail_of(paths[0])
    pages = paths[0].stat().st_size // 4096
    first, second = (equality.content(path, "t", pages, tail) for path in paths)
    assert first == second
    image = bytearray(paths[1].read_bytes())
    image[24:28] = b"\1\2\3\4"
    image[92:96] = b"\1\2\3\4"
    paths[1].write_bytes(image)
    assert equality.content(paths[1], "t", pages, tail) == first
    with closing(sqlite3.connect(paths[1], isolation_level=None)) as database:
        database.execute("UPDATE t SET began = began + 1 WHERE id = 1")
    assert equality.content(paths[1], "t", pages, tail) != first


def test_lookout_when_replicas_jump_ahead_then_every_transaction_has_its_lag(
    tmp_path: Path,
) -> None:
    """One that shows several at once shows each of them then; first comes first."""
    paths = [tmp_path / name for name in ("primary", "one", "other")]

    def show(path: Path, txid: int) -> None:
        path.write_text(Position(1, txid, txid).text + "\n")

    for path in paths:
        show(path, 5)
    with Lookout(paths[0], paths[1:]) as lookout:
        show(paths[0], 8)
        lookout.look()
        assert lookout.slowest == 5
        show(paths[1], 6)
        lookout.look()
        show(paths[1], 8)
        show(paths[2], 8)
        lookout.look()
        assert lookout.slowest == 8
        first, second, third = lookout.lags(6, [0, 0, 0])
    assert first[0] < first[1]
    assert second == third
    assert first[1] == second[1]


def test_traffic_when_bytes_are_sent_then_the_kernel_has_counted_them() -> None:
    """Of the connections to that port only, from the server's side."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert traffic([port])[port] == Traffic()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"x" * 1000)
                client.sendall(b"y" * 10)
                assert accepted.recv(100) == b"y" * 10
                assert len(client.recv(1000, socket.MSG_WAITALL)) == 1000
                found = traffic([port])[port]
    assert (found.connections, found.sent_bytes, found.received_bytes) == (1, 1000, 10)
    assert found.sent_segments > 0


def test_usage_when_a_process_works_then_its_time_grows() -> None:
    """Of all its threads; one that is gone has none."""
    before = usage.cpu_s([os.getpid()])
    sum(range(1_000_000))
    assert usage.cpu_s([os.getpid()]) > before > 0
    assert usage.pss_bytes(os.getpid()) > 1 << 20
    assert usage.cpu_s([1 << 30]) == usage.pss_bytes(1 << 30) == 0


@pytest.mark.parametrize("style", ["table", "json"])
@pytest.mark.parametrize("failed", [[], ["replica-2 has other rows"]], ids=["well", "not equal"])
def test_bench_when_replicas_are_not_equal_then_it_reports_and_fails(
    failed: list[str], style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is printed either way."""
    report = replace(REPORT, failed=failed)
    monkeypatch.setattr(fanout, "run", lambda _plan, _say: report)
    done = CliRunner().invoke(cli.litemq, ["bench", "--only", "fanout", "--format", style])
    assert isinstance(done.exception, LiteMQError) == bool(failed), done
    assert all(each in done.output for each in failed)
    assert "median" in done.output
