"""Whether there is room for threads, asked in a process whose limit is real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sql_process import IMPORT_PATH
from task_limit import TaskLimit

from litemq import thread_room

ASK = """
import sys
from litemq import thread_room
from litemq.errors import NoThreadError
from litemq.actors import process_limits
from litemq.transport.sockets import Sender
sys.stdin.readline()
for threads in range(5):
    try:
        thread_room.check(threads)
        print("room")
    except NoThreadError:
        print("none")
try:
    Sender("ipc:///tmp/litemq-nobody")
    print("a socket")
except NoThreadError as error:
    print(error)
print(process_limits.near(), process_limits.reached())
"""


@pytest.fixture
def limit() -> Iterator[TaskLimit]:
    limit = TaskLimit("room")
    yield limit
    limit.close()


@pytest.mark.parametrize(("tasks", "room"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_room_when_a_control_group_limits_it_then_it_is_told_exactly(
    limit: TaskLimit, tasks: int, room: int
) -> None:
    """And a socket is refused with an error, where ZeroMQ would have ended the process."""
    asking = subprocess.Popen(
        [*limit.inside, sys.executable, "-c", ASK],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": IMPORT_PATH},
    )  # fmt: skip
    limit.allow(tasks)
    told, _ = asking.communicate("\n")
    lines = told.splitlines()
    assert asking.returncode == 0
    assert lines[:5] == ["room" if threads <= room else "none" for threads in range(5)]
    refused = "no thread is left: can't start new thread"
    assert lines[5] == ("a socket" if room >= 2 else refused)
    assert lines[6].startswith(f"True pids.max of {limit.folder} is {tasks}")


def test_room_when_there_is_no_limit_then_there_is_some() -> None:
    """And nothing of the question stays."""
    before = thread_room._count()
    thread_room.check(20)
    assert thread_room._count() == before
