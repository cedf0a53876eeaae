"""SQLite's own suite: where it is built, which of its files are run, and what one of them tells.

Owns no process for longer than a file takes. Always true: the choice of files depends on nothing
but their names and text, so a native run and one in a mount are of the same files.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / ".venv" / "sqlite-suite" / "source" / "sqlite3"
TESTFIXTURE = SOURCE / "testfixture"
#: every one of so many is in the part that CI runs
TENTH = 10

#: what breaks the disk or the memory below SQLite by a VFS or an allocator of its own; what takes
#: hours, is of another system, or runs other files
_LEFT_OUT = re.compile(
    r"malloc|fault|ioerr|crash|corrupt|fuzz|oom|shortread|speed|win32|_err|^mem|^async|^fts[12]"
    r"|^(all|quick|veryquick|full|extraquick|permutations|soak|main)\."
)
_BREAKS_THINGS = re.compile(r"do_faultsim_test|do_malloc_test|do_ioerr_test|crashsql")
#: does with files more than any SQL does
_OF_FILES = re.compile(
    r"sqlite3 db[2-9]|file (size|exists|mtime)|forcecopy|copy_file|journal_mode|locking_mode"
    r"|wal_checkpoint|vacuum|launch_testfixture|attach|savepoint|cache_size|hexio",
    re.IGNORECASE,
)
_COUNT = re.compile(r"^(\d+) errors out of (\d+) tests", re.MULTILINE)
_FAILED = re.compile(r"^! (\S+) (expected|got): +(.*)$", re.MULTILINE)
#: each test tells its name as it begins
_BEGUN = re.compile(r"^\S+\.\.\.", re.MULTILINE)
_LISTED = re.compile(r"^!Failures on these tests: (.*)$", re.MULTILINE)


def chosen(pattern: str = "", *, tenth: bool = False) -> list[Path]:
    """The files to run, by name: all, those a regular expression finds, a fixed tenth of those."""
    files = [
        path
        for path in sorted((SOURCE / "test").glob("*.test"))
        if not _LEFT_OUT.search(path.name) and _is_of_files(path.read_text("latin-1"))
    ]
    files = files[:: TENTH if tenth else 1]
    return [path for path in files if re.search(pattern, path.stem)]


def _is_of_files(text: str) -> bool:
    return bool(_OF_FILES.search(text)) and not _BREAKS_THINGS.search(text)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a file told at its end."""

    tests: int
    failed: tuple[str, ...]
    """Names of the tests with an error."""
    ended: str
    """How it ended, if not by telling its counts: "" or "took too long", "exit code 139"."""
    details: dict[str, str]
    """What was expected and what came, of each that failed."""
    took_s: float

    def same(self, other: Outcome) -> bool:
        """Whether both ran the same tests with the same errors."""
        return (self.tests, self.failed, self.ended) == (other.tests, other.failed, other.ended)


def run_file(path: Path, directory: Path, *, limit_s: float) -> Outcome:
    """Run a file with its databases in `directory`; it and what it started end within the limit."""
    began_s = time.monotonic()
    process = subprocess.Popen(
        [TESTFIXTURE, path, "--testdir=."],
        cwd=directory,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    ended = ""
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        ended = "took too long"
    return parse(output.decode("utf-8", "replace"), ended or _end(process.returncode), began_s)


def _end(code: int) -> str:
    return "" if code in (0, 1) else f"exit code {code}"


def parse(output: str, ended: str, began_s: float) -> Outcome:
    """What a run of testfixture printed."""
    counts: Sequence[str] | None = None
    for found in _COUNT.finditer(output):
        counts = found.groups()
    details: dict[str, str] = {}
    for name, which, value in _FAILED.findall(output):
        details[name] = f"{details.get(name, '')} {which} {value}".strip()
    listed = _LISTED.search(output)
    failed = listed[1].split() if listed else list(details)
    if counts is None and not ended:
        ended = "ended early: " + (output.strip().splitlines() or ["no output"])[-1][:200]
    # some files end early natively, too: then the tests are counted that have begun
    tests = int(counts[1]) if counts else len(_BEGUN.findall(output))
    return Outcome(tests, tuple(sorted(set(failed))), ended, details, time.monotonic() - began_s)
