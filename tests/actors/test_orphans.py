"""A supervisor that orphans come to waits for the dead among them, and for nobody else's."""

from __future__ import annotations

import subprocess
import sys

from sql_process import IMPORT_PATH

from litemq.actors.orphans import Orphans, adopts

SCRIPT = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from litemq.actors.orphans import Orphans

def dead():
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return found

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
nursery = os.fork()
if nursery == 0:
    os._exit(7)
for _ in range(5):  # each has a child that it leaves behind
    subprocess.run(["sh", "-c", "sh -c 'exit 0' & exec true"], check=True)
orphans, reaped, end = Orphans(), 0, time.monotonic() + 30
while reaped < 5 and time.monotonic() < end:
    reaped += orphans.reap(nursery)
    time.sleep(0.01)
assert reaped == 5, reaped
assert dead() == [nursery], dead()
assert os.waitstatus_to_exitcode(os.waitpid(nursery, 0)[1]) == 7
print("ok")
"""


def test_orphans_when_they_have_died_then_they_are_waited_for_and_the_nursery_is_not() -> None:
    """As PID 1 of a container: `docker exec` and health checks leave some each time."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": IMPORT_PATH, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.strip() == "ok", done.stdout + done.stderr


def test_orphans_when_they_go_elsewhere_then_nothing_is_looked_at() -> None:
    """Most supervisors have an init above them."""
    assert not adopts()
    with subprocess.Popen(["true"]) as process:
        orphans = Orphans()
        assert not any(orphans.reap(0) for _ in range(3))
        assert process.wait(10) == 0
