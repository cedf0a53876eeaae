"""Nodes on this machine for a benchmark or a demonstration: files, ports and processes of their
own.

Owns one temporary directory and everything below it. Always true: after `close` no process that was
started here runs, nothing is mounted, and the directory is gone; nodes also end when this process
is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from litemq import config as configuration
from litemq.actors.client import NodeClient
from litemq.config import Config
from litemq.errors import LiteMQError, NotReadyError, NotRunningError
from litemq.fs import mount
from litemq.transport import messages as m
from litemq.transport.sockets import close_all
from litemq.txlog.position import Position, parse

START_S = 30.0
STOP_S = 30.0
LOOK_S = 0.05
#: below what the kernel hands out by itself
_PORTS = range(15000, 32000, 10)
_PORTS_PER_NODE = 3
_PR_SET_PDEATHSIG = 1


def _end_with_parent(number: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _free_port(taken: set[int]) -> int:
    """The first of three free ports on the loopback interface."""
    for port in random.sample(_PORTS, 200):
        if port in taken:
            continue
        with contextlib.ExitStack() as held:
            try:
                for number in range(port, port + _PORTS_PER_NODE):
                    tried = held.enter_context(socket.socket())
                    tried.bind(("127.0.0.1", number))
            except OSError:
                continue
        taken.add(port)
        return port
    raise LiteMQError("no three free ports in a row on 127.0.0.1")


class LocalNode:
    """One configuration file and the process that runs it."""

    def __init__(self, directory: Path, name: str, port: int, primary_port: int) -> None:
        self.name = name
        self.mount = directory / f"mount-{name}"
        path = directory / f"{name}.toml"
        tables: dict[str, dict[str, str]] = {
            "node": {"name": name, "data-dir": str(directory / f"data-{name}")},
            "mount": {"path": str(self.mount)},
            "stream": {"listen": f"tcp://127.0.0.1:{port}"},
            "election": {"primary": f"tcp://127.0.0.1:{primary_port}"},
        }
        lines: list[str] = []
        for section, values in tables.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        path.write_text("\n".join(lines) + "\n")
        self.config: Config = configuration.load(path)
        self._stderr = directory / f"{name}.stderr"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: NodeClient | None = None

    def start(self) -> None:
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "litemq", "up", "--config", str(self.config.path)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                # Ctrl-C is for us; nodes are told afterwards
                start_new_session=True,
                preexec_fn=lambda: _end_with_parent(signal.SIGTERM),
            )

    def wait_ready(self) -> None:
        """Raises LiteMQError when the node ends or takes too long."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            self.check()
            try:
                if self.client.status(1.0).ready:
                    return
            except (NotRunningError, NotReadyError):
                pass
            time.sleep(LOOK_S)
        raise LiteMQError(f"node {self.name} was not ready within {START_S:.0f} s; {self.words()}")

    def check(self) -> None:
        """Raises LiteMQError when the node's process has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise LiteMQError(f"node {self.name} ended by itself; {self.words()}")

    def words(self) -> str:
        """The last line the node has written."""
        lines = self._stderr.read_text(errors="replace").splitlines()
        return f"its last words: {lines[-1][:300]}" if lines else "it said nothing"

    @property
    def client(self) -> NodeClient:
        if self._client is None:
            self._client = NodeClient(self.config)
        return self._client

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
        assert self._process is not None
        supervisor = psutil.Process(self._process.pid)
        pids = [supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))]
        return sum(_pss_bytes(pid) for pid in pids)

    def stop(self) -> int:
        """End the node as an operator does; its exit code."""
        if self._client is not None:
            self._client.close()
            self._client = None
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            mount.clean_stale_mount(str(self.mount))
            return -signal.SIGKILL


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class LocalCluster:
    """A primary and its replicas in a temporary directory."""

    def __init__(self, names: list[str], *, below: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="litemq-", dir=below))
        taken: set[int] = set()
        ports = [_free_port(taken) for _ in names]
        self.nodes = [
            LocalNode(self.directory, name, port, ports[0])
            for name, port in zip(names, ports, strict=True)
        ]
        self._work: list[subprocess.Popen[bytes]] = []

    @property
    def primary(self) -> LocalNode:
        return self.nodes[0]

    @property
    def replicas(self) -> list[LocalNode]:
        return self.nodes[1:]

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                node.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def work(self, **asked: Any) -> subprocess.Popen[bytes]:
        """Start an application (`bench/workload.py`) in a process of its own."""
        asked = {
            key: str(value) if isinstance(value, Path) else value for key, value in asked.items()
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "litemq.bench.workload", json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=self.directory,
            start_new_session=True,
            preexec_fn=lambda: _end_with_parent(signal.SIGKILL),
        )
        self._work.append(process)
        return process

    def result(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for an application and return what it tells. Raises LiteMQError when it failed."""
        out, _ = process.communicate()
        self._work.remove(process)
        told: dict[str, Any] = json.loads(out) if out.strip() else {}
        if process.returncode or "error" in told:
            raise LiteMQError(f"an application failed: {told.get('error', 'see above')}")
        return told

    def wait_equal(self, name: str, timeout_s: float = 30.0) -> dict[str, Position | None]:
        """Wait until every node has the primary's position; every node's."""
        head = self.primary.head(name)
        wanted = None if head is None else head.position.value
        deadline_s = time.monotonic() + timeout_s
        while True:
            found: dict[str, Position | None] = {self.primary.name: wanted}
            for node in self.replicas:
                theirs = node.head(name)
                found[node.name] = None if theirs is None else theirs.position.value
            if all(position == wanted for position in found.values()):
                return found
            if time.monotonic() > deadline_s:
                return found
            for node in self.nodes:
                node.check()
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Stop everything and take the directory away. Raises LiteMQError when a node did not end
        well.
        """
        for process in list(self._work):
            process.kill()
            process.communicate()
        self._work.clear()
        # the primary first: it waits until its replicas have everything
        wrong = [f"node {node.name} ended with {code}" for node, code in self._stop_nodes() if code]
        wrong += [
            f"{node.mount} is still mounted"
            for node in self.nodes
            if mount.is_mounted(str(node.mount))
        ]
        close_all()
        if wrong:
            raise LiteMQError(f"{'; '.join(wrong)} (their files are in {self.directory})")
        for directory in (self.directory, *(node.config.run_dir for node in self.nodes)):
            shutil.rmtree(directory, ignore_errors=True)

    def _stop_nodes(self) -> Iterator[tuple[LocalNode, int]]:
        for node in self.nodes:
            yield node, node.stop()
