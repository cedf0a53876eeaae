"""Whose thread asks, and what its process has open."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from litemq.fs.processes import may_write, process_of

WAYS = {
    "a thread that has ended": """
        t = threading.Thread(target=lambda: files.append(open(sys.argv[1], "r+b")))
        t.start(); t.join()
    """,
    "a parent that has ended": """
        files.append(open(sys.argv[1], "r+b"))
        if os.fork(): os._exit(0)
    """,
    "another name of the same process": """
        files.append(open(sys.argv[1], "r+b")); os.unlink(sys.argv[1])
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_file_when_it_came_to_the_process_in_any_way_then_the_process_may_write(
    tmp_path: Path, way: str
) -> None:
    """It is asked of the process that calls, and not of the thread that has opened the file."""
    path = tmp_path / "a.db-wal"
    path.write_bytes(b"frames")
    inode = path.stat().st_ino
    code = f"""if True:
        import os, sys, threading
        files = []
        {WAYS[way].strip()}
        print(os.getpid(), flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        assert may_write(pid, inode, path.name) is True
        assert may_write(pid, inode, "another") is False
        assert may_write(pid, inode + 1, path.name) is False
        program.communicate(b"")


def test_file_when_it_is_open_for_reading_then_the_process_may_not_write(tmp_path: Path) -> None:
    """Nor when it is closed again."""
    path = tmp_path / "a.db-wal"
    path.write_bytes(b"frames")
    with open(path, "rb"):
        assert may_write(os.getpid(), path.stat().st_ino, path.name) is False


def test_process_when_it_is_gone_or_elsewhere_then_nothing_is_known_of_it() -> None:
    """The kernel names threads of other PID namespaces 0."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    for thread in (0, gone.pid):
        assert process_of(thread) == 0
        assert may_write(thread, 1, "a.db-wal") is None


def test_thread_when_it_asks_then_its_process_is_known() -> None:
    """Its number is another one."""
    found = []
    thread = threading.Thread(target=lambda: found.append(process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [os.getpid()]
