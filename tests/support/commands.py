"""The `litemq` command as a user runs it: a process, its output, its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sql_process import IMPORT_PATH

TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH") or IMPORT_PATH}


def litemq(*words: str | Path, directory: Path | None = None, timeout_s: float = TIMEOUT_S) -> Done:
    """Run the command to its end. A traceback is never right."""
    done = subprocess.run(
        [sys.executable, "-m", "litemq", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment(),
        timeout=timeout_s,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def refused(done: Done, code: int, *words: str) -> str:
    """The one line on stderr of a command that failed with this code; it holds these words."""
    assert done.code == code, done
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("litemq: "), done.err
    for word in words:
        assert word in lines[0], (word, lines[0])
    return lines[0]
