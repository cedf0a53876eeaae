"""Somebody sets the machine's clock."""

from __future__ import annotations

import time

import pytest

from litemq.actors import steady_clock

TEN_YEARS_S = 10 * 365 * 86400.0


@pytest.mark.parametrize("jump_s", [-TEN_YEARS_S, TEN_YEARS_S])
def test_clock_when_it_is_set_by_years_then_what_is_kept_for_days_stays(
    monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Time goes on from where it was."""
    before, real = steady_clock.now_s(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert before <= steady_clock.now_s() < before + 3600
