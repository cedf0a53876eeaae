"""How a process that runs a user's code is started: a Python of its own, not a fork.

It finds modules as this process does, whatever stands in the working directory. It has a process
group of its own, so that a terminal's Ctrl-C is not for it and its children can be killed with it.
Always true: it dies with the supervisor, however that dies; the process sees to that itself, first
of all (`lifeline.die_with_parent`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

#: a killed process is waited for this long at most, where anybody waits for it
REAP_S = 1.0


def start(
    module: str, words: Sequence[str], *, fds: Sequence[int], output: int
) -> subprocess.Popen[bytes]:
    """Run `main(words)` of a module of ours; raises OSError.

    It inherits `fds` under their numbers and writes to the descriptor `output`.
    """
    line = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        # -P: the working directory is no place for modules; -u: output at once
        [sys.executable, "-P", "-u", "-c", line, *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=fds,
        process_group=0,
    )


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a killed one; a moment only, since one that hangs in the kernel may stay."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for it and for what it has started; it is not waited for."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
