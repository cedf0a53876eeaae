"""Commits that wait for room go on when there is room, each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from litemq.actors import handed_over
from litemq.actors.handed_over import HandedOver
from litemq.fs.capture import Commit
from litemq.fs.poll_loop import PollLoop

ROOM_BYTES = 1000


class Mount:
    """Databases whose commits are handed over, and those that have returned."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.pending = HandedOver(self._send, cached=False, refused=lambda: 0)
        self.loop = PollLoop()
        self.returned: list[str] = []

    def _send(self, message: Any, *_payload: bytes) -> None:
        self.sent.append(message)

    def commit(self, database: str, size: int) -> None:
        """A program of its own commits so many bytes."""

        async def work() -> None:
            capture: Any = SimpleNamespace(name=database, generation=1)
            await self.pending.hand_over(capture, Commit(512, 2, [1, 2], False, bytes(size)))
            self.returned.append(database)

        self.loop.spawn(work())

    def run(self, steps: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await steps()

        self.loop.run(main())

    async def settle(self) -> None:
        """Everything that can go on has gone on."""
        for _ in range(5):
            await self.loop.sleep(0)


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    monkeypatch.setattr(handed_over, "OUTSTANDING_BYTES", ROOM_BYTES)
    return Mount()


@pytest.mark.parametrize("programs", [1, 2, 5])
def test_commits_when_they_wait_for_room_then_all_go_on_when_it_is_there(
    mount: Mount, programs: int
) -> None:
    """However many wait at once, and none before."""
    names = [f"{number}.db" for number in range(programs)]

    async def steps() -> None:
        for name in names:
            mount.commit(name, ROOM_BYTES)
        await mount.settle()
        assert mount.returned == []
        mount.pending.logged(mount.sent[-1].sequence)
        await mount.settle()
        assert sorted(mount.returned) == names

    mount.run(steps)


def test_commit_when_its_own_is_in_the_log_then_it_waits_for_no_other(mount: Mount) -> None:
    """Others that fill the room again and again keep nobody waiting for ever."""

    async def steps() -> None:
        mount.commit("first.db", ROOM_BYTES)
        await mount.settle()
        mount.commit("second.db", ROOM_BYTES)
        await mount.settle()
        mount.pending.logged(mount.sent[0].sequence)
        await mount.settle()
        assert mount.returned == ["first.db"]
        mount.pending.logged(mount.sent[1].sequence)
        await mount.settle()
        assert mount.returned == ["first.db", "second.db"]

    mount.run(steps)


def test_commits_when_the_log_writer_is_given_up_then_none_waits_on(mount: Mount) -> None:
    """Nobody will ever acknowledge them."""

    async def steps() -> None:
        mount.commit("a.db", ROOM_BYTES)
        mount.commit("b.db", ROOM_BYTES)
        await mount.settle()
        mount.pending.give_up(5)
        await mount.settle()
        assert sorted(mount.returned) == ["a.db", "b.db"]

    mount.run(steps)
