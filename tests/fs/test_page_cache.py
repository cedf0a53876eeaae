"""What is stored in the kernel's page cache never leaves anybody waiting."""

from __future__ import annotations

import threading

import pytest

from litemq.fs import page_cache
from litemq.fs.page_cache import PageCache
from litemq.fs.poll_loop import PollLoop


def refuse(error: BaseException) -> object:
    def store(*_: object) -> None:
        raise error

    return store


def test_store_when_the_kernel_will_not_have_it_then_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel asks for the pages then, as ever."""
    monkeypatch.setattr(page_cache.pyfuse3, "notify_store", refuse(OSError(2, "no such inode")))
    loop = PollLoop()
    cache = PageCache(loop)

    async def main() -> None:
        await cache.store(1, 0, b"x")
        await cache.store(1, 0, b"x")

    loop.run(main())
    cache.close()


def test_store_when_there_is_no_thread_left_then_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel asks for the pages then, too; the next is stored when there is one."""
    stored: list[int] = []
    monkeypatch.setattr(page_cache.pyfuse3, "notify_store", lambda *_: stored.append(1))
    loop = PollLoop()
    cache = PageCache(loop)

    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            await cache.store(1, 0, b"x")
        assert stored == []
        await cache.store(1, 0, b"x")

    loop.run(main())
    cache.close()
    assert stored == [1]


def test_store_when_it_fails_as_nobody_foresaw_then_the_actor_dies_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Instead of a program that waits for ever for its WAL."""
    monkeypatch.setattr(page_cache.pyfuse3, "notify_store", refuse(RuntimeError("unforeseen")))
    loop = PollLoop()

    async def main() -> None:
        await PageCache(loop).store(1, 0, b"x")

    with pytest.raises(RuntimeError, match="unforeseen"):
        loop.run(main())
