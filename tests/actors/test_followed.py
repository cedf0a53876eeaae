"""What a replica keeps of one database, without sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from litemq.actors.followed import LONGEST_PAUSE_S, Followed
from litemq.actors.layout import Layout
from litemq.actors.replica_database import ReplicaDatabase


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    layout = Layout(tmp_path)
    layout.create()
    path = tmp_path / "a.db"
    return Followed(ReplicaDatabase("a.db", layout, path, 1 << 20, backing=path))


def test_repair_when_it_keeps_failing_then_the_pauses_grow(followed: Followed) -> None:
    """Up to a limit; it stays needed."""
    pauses = []
    for _ in range(10):
        followed.repair_failed(100.0)
        assert followed.needs_repair
        pauses.append(followed.repair_after_s - 100.0)
    assert pauses[0] < 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_repair_when_one_succeeds_then_the_next_failure_is_the_first_again(
    followed: Followed,
) -> None:
    """And it may begin at once."""
    for _ in range(5):
        followed.repair_failed(100.0)
    followed.repaired()
    assert followed.repair_after_s == 0.0
    followed.repair_failed(200.0)
    assert followed.repair_after_s < 201.0
