"""`litemq demo` from its first line to the last trace of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from capabilities import require_fuse
from commands import environment, litemq

pytestmark = pytest.mark.fuse


def left_behind(directory: Path) -> list[str]:
    """Files and mounts below the directory that the demonstration was given for its own."""
    mounts = [
        line.split(" ")[4]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {directory}/" in line
    ]
    return mounts + [str(path) for path in directory.iterdir()]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    require_fuse()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_demo_when_its_seconds_are_over_then_all_nodes_are_equal_and_nothing_is_left(
    directory: Path,
) -> None:
    """It stops by itself, says how the nodes ended, and exits with 0."""
    done = litemq("demo", "--seconds", "2")
    assert done.code == 0, done
    assert "all nodes are equal" in done.out
    ended = re.findall(
        r"^(primary|replica-[12]) +(?:primary|replica) +(\d+) +([0-9a-f]{16}) +0 ms +(\d+)$",
        done.out,
        re.MULTILINE,
    )
    assert [name for name, *_ in ended] == ["primary", "replica-1", "replica-2"]
    assert len({tuple(state) for _, *state in ended}) == 1
    assert int(ended[0][3]) > 100
    assert "rows/s" in done.out  # plain lines, for this is no terminal
    assert "\x1b" not in done.out
    assert left_behind(directory) == []


def test_demo_when_interrupted_then_it_drains_and_nothing_is_left(directory: Path) -> None:
    """Ctrl-C reaches the whole foreground group; the nodes are stopped in order all the same."""
    with subprocess.Popen(
        [sys.executable, "-m", "litemq", "demo"],
        stdout=subprocess.PIPE,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "rows/s" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
    assert "all nodes are equal" in rest
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert left_behind(directory) == []


def test_demo_when_killed_then_its_nodes_end_and_unmount(directory: Path) -> None:
    """kill -9 of the demonstration leaves files at most."""
    with subprocess.Popen(
        [sys.executable, "-m", "litemq", "demo"],
        stdout=subprocess.PIPE,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "rows/s" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert not [path for path in left_behind(directory) if "mount" in path]
