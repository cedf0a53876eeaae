"""What two looks at the clocks tell, and that leases are counted on the one that never jumps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from capabilities import require_program, require_root
from commands import environment

from litemq.election import clock
from litemq.election.clock import Clocks, jump

BEFORE = Clocks(1000.0, 900.0, 1.7e9)


@pytest.mark.parametrize(
    ("boot_s", "awake_s", "wall_s", "told"),
    [
        (0.25, 0.25, 0.25, ""),
        (30.0, 30.0, 30.0, ""),  # it was stopped
        (30.0, 0.3, 30.0, "slept for 29.7 s"),
        (30.0, 0.3, 0.3, "slept for 29.7 s"),
        (0.3, 0.3, 3600.3, "set forward by 3600.0 s; leases do not depend on it"),
        (0.3, 0.3, -59.7, "set back by 60.0 s"),
        (0.3, 0.3, 0.9, ""),  # set right, by little
    ],
)
def test_clocks_when_they_part_then_one_line_says_how(
    boot_s: float, awake_s: float, wall_s: float, told: str
) -> None:
    """Sleep, and a wall clock that somebody sets; what only takes time is neither."""
    after = Clocks(BEFORE.boot_s + boot_s, BEFORE.awake_s + awake_s, BEFORE.wall_s + wall_s)
    found = jump(BEFORE, after)
    assert told in found
    assert bool(told) == bool(found)
    assert "\n" not in found


def test_clocks_when_read_then_nothing_has_happened() -> None:
    """On a machine that is awake."""
    before = clock.read()
    assert jump(before, clock.read()) == ""
    assert before.boot_s <= clock.now_s()


def test_clock_of_leases_when_a_machine_has_slept_then_it_has_gone_on() -> None:
    """Seen in a time namespace, in which a day of sleep is over."""
    require_root()
    code = "from litemq.election import clock; c = clock.read(); print(c.boot_s - c.awake_s)"
    words = [require_program("unshare"), "--time", "--boottime", "86400", "--fork"]
    done = subprocess.run(
        [*words, sys.executable, "-c", code],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 86_000
