"""A control group of its own for a node, which limits how many processes and threads it has."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

_TOPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_EMPTY_S = 10.0


class TaskLimit:
    """Version 1 or 2, whichever counts processes here; skips the test where none can be made."""

    def __init__(self, name: str) -> None:
        for top in _TOPS:
            self.folder = top / f"litemq-test-{os.getpid()}-{name}"
            with contextlib.suppress(OSError):
                self.folder.mkdir()
                if (self.folder / "pids.max").exists():
                    return
                self.folder.rmdir()
        pytest.skip("no control group that counts processes can be made here")

    @property
    def inside(self) -> list[str]:
        """The beginning of a command line that runs the rest in it."""
        return ["sh", "-c", f'echo $$ >{self.folder}/cgroup.procs; exec "$@"', "sh"]

    @property
    def tasks(self) -> int:
        """How many there are."""
        return int((self.folder / "pids.current").read_text())

    def allow(self, tasks: int | None) -> None:
        """So many from now on, None: any number; those that are more stay."""
        (self.folder / "pids.max").write_text("max" if tasks is None else str(tasks))

    def close(self) -> None:
        """Whatever was in it has ended, or is about to."""
        end_s = time.monotonic() + _EMPTY_S
        while True:
            try:
                self.folder.rmdir()
                return
            except OSError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.05)
