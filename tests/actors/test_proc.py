"""Where a silent process waits, from real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import eventually

from litemq.actors import proc

#: a parent whose child shares its memory waits uninterruptibly, as for a disk
VFORK = """
import ctypes, os
libc = ctypes.PyDLL(None)
if libc.vfork() == 0:
    libc.sleep(60)
    os._exit(0)
"""


def test_look_when_a_process_sleeps_then_no_disk_is_to_blame() -> None:
    """A signal would end it."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        eventually(lambda: proc.look(sleeper.pid).state == "S", what="it sleeps")
        assert not proc.look(sleeper.pid).by_disk
        sleeper.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's stack is root's to read")
def test_look_when_a_process_waits_uninterruptibly_then_it_says_where() -> None:
    """What a disk that does not answer looks like."""
    waiter = subprocess.Popen([sys.executable, "-c", VFORK], start_new_session=True)
    try:
        eventually(lambda: proc.look(waiter.pid).state == "D", what="it waits")
        found = proc.look(waiter.pid)
        assert found.by_disk
        assert str(found).startswith("D < ")
    finally:
        os.killpg(waiter.pid, signal.SIGKILL)
        waiter.wait()


def test_stall_when_it_is_a_mount_that_does_not_answer_then_a_signal_helps() -> None:
    """The actor may wait for itself."""
    assert not proc.Stall("D", ("request_wait_answer", "fuse_simple_request")).by_disk


def test_look_when_the_process_is_gone_then_nothing_is_known() -> None:
    """Its number may be anybody's by now."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert proc.look(gone.pid) == proc.Stall("?")


def test_rss_bytes_when_a_process_lives_then_it_is_what_its_status_says() -> None:
    """The kernel tells it twice; of one that is gone there is nothing."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        eventually(lambda: proc.look(sleeper.pid).state == "S", what="it sleeps")
        told = Path(f"/proc/{sleeper.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
        assert proc.rss_bytes(sleeper.pid) == int(told) * 1024
        sleeper.kill()
    assert proc.rss_bytes(sleeper.pid) == 0
