"""The loop that FUSE runs on: order, parking, failing fast, and what pyfuse3 asks of `trio`."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from litemq.fs.poll_loop import ClosedResourceError, Event, Lock, PollLoop
from litemq.fs.trio_for_pyfuse3 import Trio


@pytest.fixture
def loop():
    loop = PollLoop()
    yield loop
    loop.close()


@pytest.fixture
def pipe():
    fds = os.pipe2(os.O_NONBLOCK)
    yield fds
    for fd in fds:
        os.close(fd)


def test_run_when_main_returns_then_its_value_comes_back(loop):
    """run() is the value of the main coroutine, and the loop can run again."""

    async def main():
        return 7

    assert loop.run(main()) == 7
    assert loop.run(main()) == 7


def test_run_when_a_spawned_coroutine_raises_then_run_raises_it(loop):
    """Fail fast: nothing goes on after an exception, and the others run their finally blocks."""
    closed = []

    async def bad():
        raise ValueError("boom")

    async def main():
        loop.spawn(bad(), "bad")
        try:
            await Event().wait()
        finally:
            closed.append("main")

    with pytest.raises(ValueError, match="boom"):
        loop.run(main())
    assert closed == ["main"]


def test_run_when_a_timer_raises_then_run_raises_it(loop):
    """A timer is no place to lose an exception either."""

    def boom():
        raise KeyError("timer")

    async def main():
        loop.call_later(0, boom)
        await Event().wait()

    with pytest.raises(KeyError):
        loop.run(main())


def test_run_when_another_loop_runs_then_it_is_refused(loop):
    """One loop in a process: events find the running loop without being told."""
    other = PollLoop()

    async def nothing():
        return None

    async def main():
        other.run(nothing())

    with pytest.raises(RuntimeError, match="another PollLoop"):
        loop.run(main())
    other.close()


def test_event_when_set_then_every_waiter_gets_the_value_of_the_first_set(loop):
    """An event carries one value, to those who wait and those who come later."""
    got = []
    event = Event()

    async def wait():
        got.append(await event.wait())

    async def main():
        loop.spawn(wait())
        loop.spawn(wait())
        await loop.sleep(0)
        assert not event.is_set
        event.set(5)
        event.set(6)
        await loop.sleep(0)
        got.append(await event.wait())

    loop.run(main())
    assert got == [5, 5, 5]


def test_lock_when_contended_then_it_is_handed_over_in_order(loop):
    """Fair: nobody overtakes, not even the one who released it."""
    order = []
    lock = Lock()

    async def worker(name):
        for _ in range(2):
            async with lock:
                order.append(name)
                await loop.sleep(0)

    async def main():
        done = [Event(), Event(), Event()]
        for event, name in zip(done, "abc", strict=True):
            loop.spawn(worker(name), on_done=event.set)
        for event in done:
            await event.wait()

    loop.run(main())
    assert order == list("abcabc")
    assert not lock.locked


def test_timers_when_several_are_due_then_they_fire_in_order_and_never_early(loop):
    """Deadlines order the timers; a cancelled one does not fire."""
    fired = []

    async def main():
        start = time.monotonic()
        for delay in (0.02, 0.005, 0.01):
            loop.call_later(delay, lambda d=delay: fired.append((d, time.monotonic() - start)))
        loop.call_later(0.007, lambda: fired.append("cancelled")).cancel()
        await loop.sleep(0.03)

    loop.run(main())
    assert [d for d, _ in fired] == [0.005, 0.01, 0.02]
    assert all(took >= d for d, took in fired)


def test_wait_readable_when_nobody_waits_for_a_readable_descriptor_then_it_sleeps(loop, pipe):
    """Readiness that nobody asked for must not spin: level-triggered poll would."""
    r, w = pipe

    async def main():
        os.write(w, b"x")
        await loop.wait_readable(r)  # registered now, and stays readable
        cpu_s = time.process_time()
        await loop.sleep(0.2)
        return time.process_time() - cpu_s

    assert loop.run(main()) < 0.1


def test_wait_readable_when_the_descriptor_is_announced_closed_then_it_raises(loop, pipe):
    """notify_closing wakes the waiter with ClosedResourceError; the number may be used again."""
    r, w = pipe
    seen = []

    async def reader():
        try:
            await loop.wait_readable(r)
        except ClosedResourceError:
            seen.append("closed")
        await loop.wait_readable(r)
        seen.append(os.read(r, 1))

    async def main():
        done = Event()
        loop.spawn(reader(), on_done=done.set)
        await loop.sleep(0)
        loop.notify_closing(r)
        await loop.sleep(0)
        os.write(w, b"y")
        await done.wait()

    loop.run(main())
    assert seen == ["closed", b"y"]


def test_wait_readable_when_two_wait_for_one_descriptor_then_the_second_is_refused(loop, pipe):
    """One waiter for a descriptor: silently replacing it would park the first for ever."""

    async def main():
        loop.spawn(loop.wait_readable(pipe[0]))
        await loop.sleep(0)
        await loop.wait_readable(pipe[0])

    with pytest.raises(RuntimeError, match="two coroutines"):
        loop.run(main())


def test_stop_when_called_in_a_signal_handler_then_a_sleeping_loop_ends(loop):
    """poll(2) is resumed after a signal handler; stop must wake it all the same."""

    async def main():
        os.kill(os.getpid(), signal.SIGUSR1)
        await Event().wait()

    old = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    try:
        assert loop.run(main()) is None
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert signal.set_wakeup_fd(-1) == -1


def test_call_from_thread_when_the_loop_sleeps_then_it_runs_in_the_loops_thread(loop):
    """The one way in from another thread."""

    async def main():
        event = Event()
        threading.Thread(
            target=lambda: loop.call_from_thread(lambda: event.set(threading.current_thread()))
        ).start()
        return await event.wait()

    assert loop.run(main()) is threading.current_thread()


def test_fuse_lock_when_released_and_taken_again_then_the_waiter_is_not_resumed(loop, pipe):
    """The worker that did not park goes on alone; the other is resumed only once it parks."""
    r, w = pipe
    lock = Trio(loop).Lock()
    log = []
    hold = Event()

    async def worker(name):
        while len(log) < 6:
            async with lock:
                await loop.wait_readable(r)
            os.read(r, 1)
            log.append(name)
            if len(log) == 3:
                await hold.wait()
            os.write(w, b"z")

    async def main():
        done = Event()
        loop.spawn(worker("a"), on_done=done.set)
        loop.spawn(worker("b"), on_done=done.set)
        os.write(w, b"zz")
        await done.wait()

    loop.run(main())
    assert log == list("aaabbb")


def test_nursery_when_a_child_finds_nothing_to_read_then_it_starts_again(loop):
    """A FUSE request can vanish before it is read; any other error ends the loop."""
    outcomes = [BlockingIOError(), BlockingIOError(), None, OSError("gone")]
    calls = []

    async def worker(name):
        calls.append(name)
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    async def main():
        async with Trio(loop).open_nursery() as nursery:
            nursery.start_soon(worker, "w", name="worker")
        return len(calls)

    assert loop.run(main()) == 3
    with pytest.raises(OSError, match="gone"):
        loop.run(main())
