"""Ordinary programs, run on the mount as a user would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TIMEOUT_S = 60.0


def run(*words: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """The program in that directory, whatever its exit code; English messages."""
    return subprocess.run(
        [str(word) for word in words],
        cwd=directory,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def succeed(*words: str | Path, directory: Path) -> str:
    """What the program printed; it must not fail."""
    done = run(*words, directory=directory)
    assert done.returncode == 0, f"{words}: {done.returncode} {done.stderr}"
    return done.stdout


def fail(*words: str | Path, directory: Path) -> str:
    """What the program complained of; it must fail."""
    done = run(*words, directory=directory)
    assert done.returncode != 0, f"{words} did not fail: {done.stdout}"
    return done.stderr
