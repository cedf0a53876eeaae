"""The figures of docs/scaling.md: what was measured, and the table that follows from it.

Owns the measured inputs; computes nothing that `scaling` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litemq.bench.scaling import Costs, Feeds, Node, feeds, simulate, wire_bytes_per_s

#: measured by `litemq bench --only fanout`; docs/scaling.md says where and how
MEASURED = Costs(
    stream_bytes=683.0,
    stream_segments=1.0,
    idle_bytes_per_s=673.0,
    idle_segments_per_s=5.0,
    publish_us=101.0,
    publish_idle_us_per_s=650.0,
    wake_us=660.0,
    apply_us=100.0,
    apply_idle_us_per_s=3070.0,
)
RATES = (1.0, 20.0, 100.0, 500.0)
RELAY_LEVELS = (0, 1, 2)
NODE = Node()
_TRANSACTIONS = 30


@dataclass(frozen=True, slots=True)
class Line:
    """What publishers can feed at one rate."""

    rate: float
    wire_bytes_per_s: float
    feeds: Feeds
    #: of the last replica, with each number of relay levels; simulated
    lags_ms: list[float]

    def cells(self) -> list[str]:
        """As in the table, for people."""
        return [
            f"{self.rate:g}",
            f"{self.wire_bytes_per_s:,.0f}",
            f"{self.feeds.by_link:,}",
            f"{self.feeds.by_cpu:,}",
            *(f"{self.feeds.replicas(levels):,}" for levels in RELAY_LEVELS),
            " / ".join(f"{lag_ms:,.0f}" for lag_ms in self.lags_ms),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "rate": self.rate,
            "wire_bytes_per_s": self.wire_bytes_per_s,
            "by_link": self.feeds.by_link,
            "by_cpu": self.feeds.by_cpu,
            "replicas": [self.feeds.replicas(levels) for levels in RELAY_LEVELS],
            "lags_ms": self.lags_ms,
        }


HEAD = ["TX/S", "BYTES/S EACH", "BY LINK", "BY CPU", "NO RELAY", "1 LEVEL", "2 LEVELS", "LAST, MS"]


def lines(costs: Costs = MEASURED) -> list[Line]:
    return [_line(costs, rate) for rate in RATES]


def _line(costs: Costs, rate: float) -> Line:
    fed = feeds(costs, rate, NODE)
    lags_s = [
        simulate(costs, rate, NODE, [fed.fan_out] * (levels + 1), _TRANSACTIONS).last_lag_s[-1]
        for levels in RELAY_LEVELS
    ]
    return Line(rate, wire_bytes_per_s(costs, rate), fed, [1000 * lag_s for lag_s in lags_s])
