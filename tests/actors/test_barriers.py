"""A barrier is answered with what is in the log, and not before."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litemq.actors import barriers
from litemq.actors.barriers import Barriers
from litemq.actors.group_commit import GroupCommit
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.errors import StorageError
from litemq.transport import messages as m
from litemq.txlog import position as positions

PAGE_SIZE = 4096
ENOSPC = 28


class Told:
    """A socket whose messages are kept."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: m.Message, *_payload: bytes) -> bool:
        self.messages.append(message)
        return True

    def close(self) -> None:
        pass


class World:
    """One database with a log, whose disk may be full."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asker, self.publisher = Told(), Told()
        self.mounted = False
        #: numbers of the questions to the mount
        self.asked: list[int] = []
        monkeypatch.setattr(barriers, "Sender", lambda _address: self.asker)
        layout = Layout(root)
        layout.create()
        self.tracked = Tracked.open("a.db", layout, 1 << 20)
        segments = self.tracked.log._segments
        self._append = segments.append
        monkeypatch.setattr(segments, "append", self._append_if_there_is_room)
        self.full = False
        self.file = root / "x.db"
        to_fuse: Any = Told()
        to_publisher: Any = self.publisher
        self.group = GroupCommit(
            Reactor(), to_fuse, to_publisher, epoch=1, inline_bytes=1000, failed=_nothing
        )
        self.group.agreed = True
        self._reactor = Reactor()
        self.barriers = Barriers(
            self.group, self._reactor, {"a.db": self.tracked},
            mounted=lambda: self.mounted, look=_nothing, take_published=_nothing,
            ask_report=lambda number, _database: self.asked.append(number),
        )  # fmt: skip

    def turn(self) -> None:
        """Until what is due has been done, and what is prepared appended."""
        self._reactor.later(3 * barriers.LOOK_S, self._reactor.stop)
        self._reactor.run()
        self.group.flush()

    def _append_if_there_is_room(self, *args: Any) -> None:
        if self.full:
            raise StorageError("no room", ENOSPC)
        self._append(*args)

    def commit(self, statement: str) -> None:
        """A commit is captured."""
        connection = sqlite3.connect(self.file)
        connection.execute(statement)
        connection.commit()
        connection.close()
        raw = self.file.read_bytes()
        pages = [
            (at // PAGE_SIZE + 1, raw[at : at + PAGE_SIZE]) for at in range(0, len(raw), PAGE_SIZE)
        ]
        assert self.group.prepare(self.tracked, pages, len(pages), PAGE_SIZE)


def _nothing(_of: object) -> None:
    pass


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    yield world
    world.tracked.log.close(clean=False)
    world.tracked.position.close()


def test_barrier_when_the_disk_refuses_then_it_is_answered_when_the_log_has_it(
    world: World,
) -> None:
    """It names no state that is only prepared."""
    world.full = True
    world.commit("create table t(x)")
    world.barriers.ask(m.Barrier(7, "", ""))
    for _ in range(3):
        world.group.flush()
        assert world.asker.messages == []
    world.full = False
    world.group.flush()
    [answer] = world.asker.messages
    assert answer.request == 7
    assert [head.position.txid for head in answer.heads] == [1] == [world.tracked.log.range[1]]


def test_barrier_when_nobody_waits_any_more_then_it_is_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stays full does not fill the memory with questions."""
    monkeypatch.setattr(barriers, "FORGET_S", 0.0)
    world.full = True
    world.commit("create table t(x)")
    world.barriers.ask(m.Barrier(7, "", ""))
    world.group.flush()
    world.full = False
    world.group.flush()
    assert world.asker.messages == []


def test_barrier_when_a_file_is_half_there_then_it_is_answered_when_that_was_seen(
    world: World,
) -> None:
    """A look that began before the mount's report may have missed the rest."""
    world.mounted = True
    world.tracked.compare_later(1, None)
    assert world.tracked.comparing is not None
    world.tracked.comparing.half_there(time.monotonic())
    world.barriers.ask(m.Barrier(7, "", ""))
    assert world.barriers.reached(world.asked[0])
    world.group.flush()
    assert world.asker.messages == []
    world.tracked.comparing.half_there(time.monotonic())
    world.turn()
    [answer] = world.asker.messages
    assert answer.request == 7


def test_change_of_role_when_the_disk_refuses_then_it_is_told_so(world: World) -> None:
    """It goes on without; but nobody takes the log for complete."""
    world.full = True
    world.commit("create table t(x)")
    world.barriers.ask(m.CompleteLog("", 3, primary=False))
    world.group.flush()
    [answer] = world.asker.messages
    assert "No space left" in answer.reason


def test_state_when_it_is_only_prepared_then_nobody_is_shown_it(world: World) -> None:
    """Neither replicas, nor `NAME-pos`, nor `status`, also when a publisher starts meanwhile."""
    world.commit("create table t(x)")
    world.group.flush()
    world.full = True
    world.commit("create table u(x)")
    world.group.flush()
    world.group.announce([world.tracked])
    told = world.publisher.messages
    heads = [head for each in told for head in getattr(each, "heads", [])]
    assert [head.position.txid for head in heads] == [1]
    assert [each.head.position.txid for each in told if isinstance(each, m.RecordsLogged)] == [1]
    assert world.tracked.status("stalled").txid == 1
    shown = (world.tracked.log.directory / "position").read_text()
    assert positions.parse(shown.strip()).txid == 1
