"""How a replica catches up, decided from the publisher's answers, without sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litemq.actors.catching_up import CatchingUp
from litemq.actors.followed import Followed
from litemq.actors.following import Phase
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.replica_database import ReplicaDatabase
from litemq.transport import messages as m

TRANSFER = 7


class Replica:
    """One database, of which a transfer is under way."""

    def __init__(self, directory: Path) -> None:
        layout = Layout(directory)
        layout.create()
        path = directory / "a.db"
        database = ReplicaDatabase("a.db", layout, path, 1 << 20, backing=path)
        self.followed = Followed(database)
        config: Any = SimpleNamespace(
            node=SimpleNamespace(name="r", data_dir=directory),
            stream=SimpleNamespace(answer_address="tcp://127.0.0.1:1"),
        )
        self.catching_up = CatchingUp(
            config, Reactor(), followed={"a.db": self.followed},
            repaired=_nothing, live=_nothing, garbage=_nothing, beat=_nothing,
        )  # fmt: skip
        self.followed.following.begin(Phase.FETCHING, TRANSFER, 0.0)


def _nothing(*_: object) -> None:
    pass


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    replica = Replica(tmp_path)
    yield replica
    replica.followed.database.close(clean=False)


@pytest.mark.parametrize("reason", ["", "the histories differ", "anything at all"])
@pytest.mark.parametrize("parted", [True, False])
def test_repair_when_it_is_needed_then_a_field_says_whether_the_histories_parted(
    replica: Replica, reason: str, parted: bool
) -> None:
    """What this node has beyond the primary is kept by that, never by the wording of a reason."""
    replica.catching_up.answer(m.RepairNeeded(TRANSFER, "a.db", reason, parted), [])
    assert replica.followed.needs_repair
    assert (replica.followed.parted is not None) == parted
