"""One node on this machine: its configuration file, the process that runs it, what is done to it.

Owns the processes below its supervisor, and the mount. Never asks a node that is stopped or dead,
which could wait for ever. Always true: after `stop` none of its processes runs and nothing of it is
mounted, whatever was done to it before.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from litemq import config as configuration
from litemq.actors.client import NodeClient
from litemq.actors.layout import Layout
from litemq.bench import usage
from litemq.bench.processes import end_with_parent, family, kill_family, signal_family
from litemq.config import Config
from litemq.errors import LiteMQError, NotReadyError, NotRunningError
from litemq.fs import mount
from litemq.transport import messages as m
from litemq.txlog.position import Position, parse

START_S = 30.0
STOP_S = 30.0
LOOK_S = 0.05
STATUS_S = 1.0

#: sections of a configuration file and their keys
Sections = Mapping[str, Mapping[str, str | bool]]


class LocalNode:
    """One configuration file and the process that runs it."""

    def __init__(
        self,
        directory: Path,
        name: str,
        listen: str,
        election: Sections,
        inside: Sequence[str] = (),
        *,
        fuse: bool = True,
        write_back: bool = False,
    ) -> None:
        """`inside` is the beginning of a command line whose rest runs where `listen` is."""
        self.name = name
        self.mount = directory / f"mount-{name}"
        path = directory / f"{name}.toml"
        sections: Sections = {
            "node": {"name": name, "data-dir": str(directory / f"data-{name}")},
            "mount": {"path": str(self.mount), "fuse": fuse, "write-back": write_back},
            "stream": {"listen": listen},
            **election,
        }
        lines: list[str] = []
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        path.write_text("\n".join(lines) + "\n")
        self.config: Config = configuration.load(path)
        self.layout = Layout(self.config.node.data_dir)
        self._inside = list(inside)
        self._stderr = directory / f"{name}.stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: NodeClient | None = None
        self._frozen = False

    # --- life

    def start(self) -> None:
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [
                    *self._inside,
                    sys.executable, "-m", "litemq", "up", "--config", str(self.config.path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                # Ctrl-C is for us; nodes are told afterwards
                start_new_session=True,
                preexec_fn=lambda: end_with_parent(signal.SIGTERM),
            )  # fmt: skip

    def wait_ready(self, *, role: str = "") -> None:
        """In that role, or any. Raises LiteMQError when the node ends or takes too long."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            self.check()
            status = self.status()
            if status is not None and status.ready and role in ("", status.role):
                return
            time.sleep(LOOK_S)
        what = f"{role} and ready" if role else "ready"
        raise LiteMQError(f"node {self.name} was not {what} within {START_S:.0f} s; {self.words()}")

    @property
    def running(self) -> bool:
        """Whether its processes are there, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """Raises LiteMQError when the node's process has ended and nobody wanted that."""
        if self._process is not None and self._process.poll() is not None:
            raise LiteMQError(f"node {self.name} ended by itself; {self.words()}")

    def words(self) -> str:
        """The last line the node has written."""
        lines = self._stderr.read_text(errors="replace").splitlines()
        return f"its last words: {lines[-1][:300]}" if lines else "it said nothing"

    def stop(self) -> int:
        """End the node as an operator does; its exit code, 0 if it does not run."""
        self.wake()
        self.terminate()
        return self.wait_end()

    def terminate(self) -> None:
        """Tell it to stop."""
        if self.running:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)

    def wait_end(self) -> int:
        """Its exit code; one that takes too long is killed."""
        self.let_go()
        process, self._process = self._process, None
        code = 0
        if process is not None:
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                kill_family(process.pid)
                code = process.wait()
        if process is None or code:
            mount.clean_stale_mount(str(self.mount))
        return code

    # --- what happens to it

    def kill(self) -> None:
        """kill -9 of every process. The mount stays behind, as it does when that happens."""
        self.let_go()
        process, self._process = self._process, None
        if process is not None:
            kill_family(process.pid)
            process.wait()

    def crash(self) -> None:
        """kill -9 of the supervisor alone; what it has started ends by itself."""
        self.let_go()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def freeze(self) -> None:
        """SIGSTOP for every process. Who uses the mount waits until `wake`."""
        self.let_go()
        if self.running:
            assert self._process is not None
            self._frozen = True
            signal_family(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT for every process."""
        if self._frozen and self._process is not None:
            signal_family(self._process.pid, signal.SIGCONT)
        self._frozen = False

    # --- what it tells

    @property
    def client(self) -> NodeClient:
        """Raises NotRunningError."""
        if self._client is None:
            self._client = NodeClient(self.config)
        return self._client

    def status(self) -> m.NodeStatus | None:
        """None when it is dead, stopped, or does not answer."""
        if self._frozen or not self.running:
            return None
        try:
            return self.client.status(STATUS_S)
        except NotReadyError:
            return None
        except NotRunningError:
            self.let_go()
            return None

    def database(self, name: str) -> Path:
        return self.mount / name

    def position(self, name: str) -> Position | None:
        """What `NAME-pos` in the mount says."""
        try:
            text = (self.mount / f"{name}-pos").read_text("ascii").strip()
        except OSError:
            return None
        return parse(text) if text else None

    def head(self, name: str) -> m.Head | None:
        """Behind a barrier."""
        return self.client.head(name)

    def pss_bytes(self) -> int:
        """Proportional set size of all the node's processes."""
        return sum(usage.pss_bytes(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        """All its processes, the supervisor first."""
        assert self._process is not None
        return [each.pid for each in family(self._process.pid)]

    def let_go(self) -> None:
        """Close what is kept open between two questions; the next one opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None
