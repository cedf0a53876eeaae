"""The lease of a lock file: what the kernel does when a holder dies, stops, or loses the file."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import environment
from waiting import eventually

from litemq.election.file import MISSING_WAIT_S, FileLease, commits_lock
from litemq.election.kernel_lock import is_locked
from litemq.election.lease import (
    Identity,
    LeaseDeniedError,
    LeaseHeldError,
    LeaseLostError,
    LeaseUnavailableError,
    Member,
    OtherClusterError,
)

HOLDER = """
import sys, time
from pathlib import Path
from litemq.election.file import FileLease
from litemq.election.lease import Identity, Member
who = Identity(cluster="c", node="other", address="tcp://127.0.0.1:9")
lease = FileLease(who, Path(sys.argv[1]))
lease.announce(Member(cluster="c", node="other", instance="", address="", role="primary", epoch=0,
                      since_ms=0))
grant = lease.acquire(0, {})
until = time.monotonic() + grant.wait_s
while time.monotonic() < until:
    time.sleep(0.02)
lease.renew()
print(grant.epoch, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def lease(lock: Path) -> Iterator[FileLease]:
    made = FileLease(Identity(cluster="c", node="a", address="tcp://127.0.0.1:1"), lock)
    yield made
    made.close()


@pytest.fixture
def new_holder(lock: Path, run_directory: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """A process that holds the lease, has nobody to wait for, and lives until it is killed."""
    made: list[subprocess.Popen[str]] = []

    def make() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(lock)],
            cwd=run_directory,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), "it holds the lease"
        return process

    yield make
    for process in made:
        process.kill()
        process.communicate()


def test_holder_when_it_is_killed_then_the_lease_is_free_at_once(
    lease: FileLease, new_holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """The kernel frees the lock with the process, the watch ends, and nobody has to wait."""
    holder = new_holder()
    view = lease.watch(0, 0)
    assert view.holder is not None
    assert [each.alive for each in lease.members()] == [True]
    with pytest.raises(LeaseHeldError, match="other"):
        lease.acquire(0, {})
    holder.kill()
    assert lease.watch(view.index, 20).holder is None
    grant = lease.acquire(0, {})
    assert grant.wait_s == 0
    assert grant.epoch > view.holder.epoch
    assert eventually(lambda: [each.alive for each in lease.members()], until=[False])


def test_holder_when_it_is_stopped_then_it_keeps_the_lease(
    lease: FileLease, new_holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """There is no expiry by time: a stopped holder can go on, so nobody else may."""
    holder = new_holder()
    holder.send_signal(signal.SIGSTOP)
    view = lease.watch(0, 0)
    assert lease.watch(view.index, 0.3).holder == view.holder
    with pytest.raises(LeaseHeldError):
        lease.acquire(0, {})
    holder.send_signal(signal.SIGCONT)


def test_holder_when_it_is_killed_while_its_mount_accepts_commits_then_the_lease_is_not_free(
    lease: FileLease, lock: Path, new_holder: Callable[[], subprocess.Popen[str]]
) -> None:
    """They are two processes of one node; no other mount can accept any meanwhile."""
    holder = new_holder()
    mount, other = commits_lock(lock), commits_lock(lock)
    assert mount.take()
    view = lease.watch(0, 0)
    holder.kill()
    holder.wait()
    assert lease.watch(view.index, 0.1).holder == view.holder
    assert not other.take()
    with pytest.raises(LeaseUnavailableError, match="still accepts commits"):
        lease.acquire(0, {})
    assert not is_locked(lock)
    mount.free()
    assert lease.watch(view.index, 20).holder is None
    assert lease.acquire(0, {}).wait_s == 0
    assert other.take()
    other.free()
    assert is_locked(lock), "the lease is a lock of its own"


def test_lock_file_when_it_is_removed_then_the_holder_notices_before_another_serves(
    lease: FileLease, lock: Path
) -> None:
    """A second lock file is another lock; who takes it waits longer than a holder looks away."""
    other = FileLease(Identity(cluster="c", node="b", address="tcp://127.0.0.1:2"), lock)
    first = lease.acquire(0, {})
    lock.unlink()
    second = other.acquire(0, {})
    assert second.wait_s == MISSING_WAIT_S > 2 * lease.pace_s
    assert second.epoch > first.epoch
    with pytest.raises(LeaseLostError, match="removed or replaced"):
        lease.renew()
    other.renew()
    # What the loser still does must not touch what is the other's now.
    lease.release()
    holder = lease.watch(0, 0).holder
    assert holder is not None
    assert holder.node == "b"
    other.close()


def test_claim_when_it_is_removed_then_what_the_node_has_seen_carries_the_epoch(
    lease: FileLease, lock: Path
) -> None:
    """With all files gone, the epoch that the node knows is what the next one is above."""
    epoch = lease.acquire(6, {}).epoch
    assert epoch == 7
    lease.release()
    for path in (lock, lock.with_name("lock.d") / "claim.json"):
        path.unlink()
    grant = lease.acquire(epoch, {})
    assert grant.epoch == 8
    assert grant.wait_s == MISSING_WAIT_S


def test_claim_when_it_is_garbage_then_nobody_takes_the_lease(lease: FileLease, lock: Path) -> None:
    """What no LiteMQ wrote is left alone, and the lock with it."""
    lock.with_name("lock.d").mkdir()
    lock.with_name("lock.d").joinpath("claim.json").write_text("[]")
    for _ in range(2):
        with pytest.raises(OtherClusterError, match=r"claim\.json holds something"):
            lease.acquire(0, {})
    with pytest.raises(OtherClusterError):
        lease.watch(0, 0)
    lock.with_name("lock.d").joinpath("claim.json").unlink()
    lease.acquire(0, {})


def test_wait_when_it_is_over_then_no_successor_inherits_it(lease: FileLease) -> None:
    """Only the first holder of a new file waits."""
    assert lease.acquire(0, {}).wait_s == MISSING_WAIT_S
    assert eventually(lambda: lease.renew() and not lease.watch(0, 0).safe_in_s)


def test_watch_when_a_release_is_half_done_then_the_lease_is_not_free_yet(
    lease: FileLease, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is named in the claim would ask in vain until the lock is free."""
    lease.acquire(0, {})
    index = lease.watch(0, 0).index
    free = lease._lock.free
    monkeypatch.setattr(lease._lock, "free", lambda: None)
    lease.release("b")
    timer = threading.Timer(0.3, free)
    timer.start()
    view = lease.watch(index, 5)
    assert not is_locked(lock)
    assert view.holder is None
    assert view.last is not None
    assert view.last.successor == "b"
    timer.join()


def test_directory_when_it_is_missing_or_refuses_then_one_line_says_so(tmp_path: Path) -> None:
    """What the disk refuses is an error of the election, not of Python."""
    who = Identity(cluster="c", node="a", address="tcp://127.0.0.1:1")
    lease = FileLease(who, tmp_path / "none" / "lock")
    with pytest.raises(LeaseUnavailableError, match="No such file"):
        lease.acquire(0, {})
    assert lease.watch(0, 0).holder is None
    lease.close()
    in_the_way = FileLease(who, tmp_path)
    with pytest.raises((LeaseUnavailableError, LeaseDeniedError)):
        in_the_way.acquire(0, {})
    in_the_way.close()


def test_files_when_they_are_made_then_strangers_cannot_write_them(
    lease: FileLease, lock: Path
) -> None:
    """Whoever can write them can take the lease: the user and the group, nobody else."""
    lease.acquire(0, {})
    lease.announce(
        Member(cluster="c", node="a", instance="", address="", role="", epoch=0, since_ms=0)
    )
    for path in (lock, *lock.with_name("lock.d").iterdir(), lock.with_name("lock.d")):
        assert not stat.S_IMODE(os.stat(path).st_mode) & 0o007, path


def test_watch_when_it_waits_then_it_costs_next_to_nothing(lease: FileLease) -> None:
    """A hundred looks a second are far below a hundredth of a CPU's second."""
    index = lease.watch(0, 0).index
    before_s = time.thread_time()
    lease.watch(index, 0.5)
    assert time.thread_time() - before_s < 0.1
