"""A node that stops under programs that use its mount."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from electorate import DATABASE, Electorate
from waiting import eventually

pytestmark = pytest.mark.fuse

PROGRAMS = 4
ROUNDS = 3

#: opens the database, writes if it may, and closes it, again and again until it is gone
PROGRAM = """
import os, sqlite3, sys, time
rounds = 0
while True:
    try:
        db = sqlite3.connect(f"file:{sys.argv[1]}?mode=rw", uri=True, timeout=1)
        try:
            db.execute("INSERT INTO pair(mark) VALUES('x')")
            db.commit()
        finally:
            db.close()
    except sqlite3.OperationalError:
        if not os.path.exists(sys.argv[1]):
            sys.exit(0)
    rounds += 1
    if rounds == 20:
        print("at work", flush=True)
"""


def test_programs_when_their_node_stops_then_no_signal_kills_them(
    new_electorate: Callable[..., Electorate],
) -> None:
    """A WAL's index is mapped memory: who touches it when the mount is gone would be killed."""
    cluster = new_electorate(size=1)
    (node,) = cluster.nodes
    for _ in range(ROUNDS):
        programs = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(node.mount / DATABASE)], stdout=subprocess.PIPE
            )
            for _ in range(PROGRAMS)
        ]
        try:
            for program in programs:
                assert program.stdout is not None
                assert program.stdout.readline() == b"at work\n"
            node.stop()
            for program in programs:
                eventually(lambda program=program: program.poll() is not None, what="it ends")
            assert [program.returncode for program in programs] == [0] * PROGRAMS
        finally:
            for program in programs:
                program.kill()
                program.communicate()
        node.start()
