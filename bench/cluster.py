"""Nodes on this machine for a benchmark or a demonstration: files, ports and processes of their
own.

Owns one temporary directory and everything below it. Always true: after `close` no process that was
started here runs, nothing is mounted, and the directory is gone unless it is to be kept; nodes also
end when this process is killed.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from litemq.bench.hosts import Host
from litemq.bench.local_node import LOOK_S, LocalNode, Sections
from litemq.bench.processes import end_with_parent, free_port, undisturbed
from litemq.errors import LiteMQError, NotReadyError, NotRunningError
from litemq.fs import mount
from litemq.transport.sockets import close_all
from litemq.txlog.position import Position

ELECT_S = 30.0
#: nodes that are started at once
GROUP = 10

#: the sections of the configuration that say who is the primary, for nodes in that directory
Election = Callable[[Path], Sections]


def by_file(directory: Path) -> Sections:
    """An election with a lock file."""
    return {"election": {"kind": "file", "path": str(directory / "lease")}}


def by_consul(address: str, key: str, ttl: str) -> Election:
    """An election with a key in the Consul at that address."""
    sections = {
        "election": {"kind": "consul"},
        "election.consul": {"address": address, "key": key, "ttl": ttl},
    }
    return lambda _directory: sections


class LocalCluster:
    """Nodes in a temporary directory: the first is the primary for good, or they elect one."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        below: Path | None = None,
        election: Election | None = None,
        hosts: Sequence[Host] = (),
        plain: Sequence[str] = (),
        write_back: bool = False,
    ) -> None:
        """`hosts`: where each of the nodes runs, if that is not simply here. `plain`: the names of
        replicas without FUSE, which come after the others. `write_back`: as the key of [mount].
        """
        self.directory = Path(tempfile.mkdtemp(prefix="litemq-", dir=below))
        #: not removed by `close`
        self.keep_files = False
        self._elects = election is not None
        taken: set[int] = set()
        addresses = [hosts[number].ip if hosts else "127.0.0.1" for number in range(len(names))]
        listen = [f"tcp://{address}:{free_port(taken)}" for address in addresses]
        sections = (election or _static(listen[0]))(self.directory)
        self.nodes = [
            LocalNode(
                self.directory, name, listen[number], sections,
                hosts[number].inside if hosts else (), write_back=write_back,
            )
            for number, name in enumerate(names)
        ]  # fmt: skip
        for name in plain:
            address = f"tcp://127.0.0.1:{free_port(taken)}"
            self.nodes.append(LocalNode(self.directory, name, address, sections, fuse=False))
        self._work: list[subprocess.Popen[bytes]] = []

    # --- who is what

    @property
    def primary(self) -> LocalNode:
        """Of those that answer, the one that serves in the highest epoch. Raises LiteMQError."""
        if not self._elects:
            return self.nodes[0]
        statuses = [(node, node.status()) for node in self.nodes]
        found = [
            (status.epoch, node)
            for node, status in statuses
            if status is not None and status.role == "primary" and status.ready
        ]
        if not found:
            raise NotReadyError("no node is primary")
        return max(found, key=lambda each: each[0])[1]

    def wait_primary(self) -> LocalNode:
        """Wait until one serves. Raises LiteMQError."""
        deadline_s = time.monotonic() + ELECT_S
        while True:
            try:
                return self.primary
            except NotReadyError as error:
                if time.monotonic() > deadline_s:
                    raise LiteMQError(f"{error} after {ELECT_S:.0f} s") from error
            time.sleep(LOOK_S)

    @property
    def replicas(self) -> list[LocalNode]:
        primary = self.primary
        return [node for node in self.nodes if node is not primary]

    # --- life

    def __enter__(self) -> Self:
        try:
            for group in self._groups():
                for node in group:
                    node.start()
                for node in group:
                    node.wait_ready()
                    node.let_go()
            self.wait_primary()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _groups(self) -> Iterator[list[LocalNode]]:
        """Nodes that start, or stop, at the same time: more would only wait for a CPU."""
        for first in range(0, len(self.nodes), GROUP):
            yield self.nodes[first : first + GROUP]

    def work(self, module: str = "workload", /, **asked: Any) -> subprocess.Popen[bytes]:
        """Start an application (`bench/workload.py` or another) in a process of its own."""
        asked = {
            key: str(value) if isinstance(value, Path) else value for key, value in asked.items()
        }
        process = subprocess.Popen(
            [sys.executable, "-m", f"litemq.bench.{module}", json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=self.directory,
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(signal.SIGKILL),
        )
        self._work.append(process)
        return process

    def result(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for an application and return what it tells. Raises LiteMQError when it failed."""
        out, _ = process.communicate()
        self._work.remove(process)
        told: dict[str, Any] = json.loads(out) if out.strip() else {}
        if process.returncode or "error" in told:
            reason = told.get("error", f"it ended with {process.returncode}")
            raise LiteMQError(f"an application failed: {reason}")
        return told

    def end_of(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for an application that tells nothing; its exit code, negative for a signal."""
        process.communicate()
        self._work.remove(process)
        return process.returncode

    def wait_equal(self, name: str, timeout_s: float = 30.0) -> dict[str, Position | None]:
        """Wait until every node has the primary's position; every node's, equal or not."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            found = self._positions(name)
            if found and len(set(found.values())) == 1:
                return found
            if time.monotonic() > deadline_s:
                return found or dict.fromkeys((node.name for node in self.nodes), None)
            for node in self.nodes:
                node.check()
            time.sleep(LOOK_S)

    def _positions(self, name: str) -> dict[str, Position | None]:
        """The primary's first; empty while there is none, or one does not answer."""
        try:
            primary = self.primary
            found: dict[str, Position | None] = {}
            for node in [primary, *(node for node in self.nodes if node is not primary)]:
                head = node.head(name)
                found[node.name] = None if head is None else head.position.value
        except (NotReadyError, NotRunningError):
            return {}
        return found

    def close(self) -> None:
        """Stop everything and take the directory away. Raises LiteMQError when a node did not end
        well.
        """
        with undisturbed():
            for node in self.nodes:
                node.wake()  # whoever uses the mount of a stopped node can't even be killed
            for process in list(self._work):
                process.kill()
                process.communicate()
            self._work.clear()
            wrong = [
                f"node {node.name} ended with {code}" for node, code in self._stop_nodes() if code
            ]
            wrong += [
                f"{node.mount} is still mounted"
                for node in self.nodes
                if mount.is_mounted(str(node.mount))
            ]
            close_all()
            if wrong:
                raise LiteMQError(f"{'; '.join(wrong)} (their files are in {self.directory})")
            for node in self.nodes:
                shutil.rmtree(node.config.run_dir, ignore_errors=True)
            if not self.keep_files:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _stop_nodes(self) -> Iterator[tuple[LocalNode, int]]:
        # A primary for good goes first: it waits until its replicas have everything. One that was
        # elected goes last: it need not hand over to anybody.
        nodes = self.nodes
        if self._elects:
            roles = {node.name: status.role for node in nodes if (status := node.status())}
            nodes = sorted(nodes, key=lambda node: roles.get(node.name, "") == "primary")
        else:
            yield nodes[0], nodes[0].stop()
            for group in self._groups():
                for node in group:
                    node.wake()
                    node.terminate()
                yield from ((node, node.wait_end()) for node in group)
            return
        for node in nodes:
            yield node, node.stop()


def _static(primary: str) -> Election:
    return lambda _directory: {"election": {"primary": primary}}
