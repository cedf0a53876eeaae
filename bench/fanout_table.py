"""A fan-out's report as lines for people. Judges no figure."""

from __future__ import annotations

from collections.abc import Iterator

from litemq.bench.fanout import FanoutReport

HEAD = ["LAG", "P50", "P99"]


def lag_rows(report: FanoutReport) -> list[list[str]]:
    return [
        [f"{name} replica", f"{lag.p50_ms:,.1f} ms", f"{lag.p99_ms:,.1f} ms"]
        for name, lag in report.lags.items()
    ]


def words(report: FanoutReport) -> Iterator[str]:
    cost = report.cost
    yield (
        f"{report.replicas} replicas without FUSE, {report.transactions} transactions in "
        f"{report.seconds:.1f} s; positions were read every {report.look_ms:.1f} ms"
    )
    yield (
        f"sent to each replica: {cost.stream_bytes_per_tx:,.0f} bytes in "
        f"{cost.stream_segments_per_tx:.2f} segments a transaction, at rest "
        f"{cost.stream_bytes_idle_per_s:,.0f} bytes/s; it answers "
        f"{cost.ack_bytes_per_tx:,.0f} bytes, at rest {cost.ack_bytes_idle_per_s:,.0f} bytes/s"
    )
    yield (
        f"CPU of the publisher: {_each_us(report, report.publisher_cpu_share):,.0f} us a "
        f"transaction, at rest {cost.publisher_cpu_us_idle_per_s / 1000:,.1f} ms/s "
        f"({report.publisher_cpu_share:.1%} of a CPU in all)"
    )
    yield (
        f"CPU of a replica: {_each_us(report, report.replica_cpu_share):,.0f} us a transaction, "
        f"at rest {cost.replica_cpu_us_idle_per_s / 1000:,.1f} ms/s "
        f"({report.replica_cpu_share:.2%} of a CPU in all)"
    )
    if report.saturated:
        yield (
            f"the machine was busy for {report.busy_share:.0%}: a transaction takes less CPU time "
            "than elsewhere, since replicas that are late take several at once"
        )
    else:
        yield (
            "of that, without what they take at rest: publisher "
            f"{cost.publisher_cpu_us_per_tx:,.0f} us, replica {cost.replica_cpu_us_per_tx:,.0f} us "
            "a transaction"
        )
    yield (
        f"memory (PSS): primary {report.pss_bytes['primary'] / (1 << 20):.1f} MiB, replica "
        f"{report.pss_bytes['replica'] / (1 << 20):.1f} MiB in "
        f"{report.processes_per_replica:g} processes; started in {report.start_s:.0f} s"
    )
    if report.right:
        yield "all replicas are equal to the primary: position, checksum, pages, rows"
    yield from (f"FAILED: {each}" for each in report.failed)


def _each_us(report: FanoutReport, share: float) -> float:
    """What a transaction took, if a process took that share of a CPU; all included."""
    return 1e6 * share * report.seconds / max(1, report.transactions)
