"""Real nodes for tests: `litemq up` as processes of their own, with their files, ports and logs.

A `Node` is one configuration file and the process that runs it; a `Cluster` is a primary, its
replicas, and what a test wants to know of all of them.
Always true: whatever a test does, `Cluster.close` leaves no process and no mount, and tells of
every warning that the test did not announce.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from leftovers import clear, describe, mounts_below, processes_below
from ports import free_port
from sql_process import IMPORT_PATH, SqlProcess
from waiting import eventually, patience

from litemq import config as configuration
from litemq.errors import FormatError
from litemq.fs.names import log_folder
from litemq.log import log_path
from litemq.transport import messages as m
from litemq.transport.endpoints import Endpoints
from litemq.transport.sockets import Receiver, Sender
from litemq.txlog.checksums import EMPTY, read_page_checksums
from litemq.txlog.position import Position, parse

START_S = 60.0
STOP_S = 40.0
STATUS_S = 5.0
#: heartbeats come this often in tests, so that a gap is noticed soon
HEARTBEAT = "100ms"

Sections = Mapping[str, Mapping[str, Any]]
_requests = itertools.count(1)


class Node:
    """One configuration and the process that runs it."""

    #: of all nodes of a test, where the primary is fixed
    write_back = False

    def __init__(
        self, directory: Path, name: str, *, primary: str = "", fuse: bool = True,
        sections: Sections | None = None, host: str = "127.0.0.1", inside: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`inside` is the beginning of a command line that runs the rest where `host` is."""
        self.name = name
        self.directory = directory
        self.data_dir = directory / "data"
        self.mount = directory / "mount"
        self.port = free_port()
        self.address = f"tcp://{host}:{self.port}"
        self._inside = list(inside)
        self.fuse = fuse
        self.config_path = directory / "node.toml"
        directory.mkdir(parents=True)
        self._announced: list[re.Pattern[str]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_stop = False
        self._hands: SqlProcess | None = None
        self.configure(primary or self.address, sections or {})

    def configure(self, primary: str, sections: Sections) -> None:
        """Write the configuration file; `sections` stand above what every test node has."""
        tables: dict[str, dict[str, Any]] = {
            "node": {"name": self.name, "data-dir": str(self.data_dir)},
            "mount": {"path": str(self.mount), "fuse": self.fuse},
            "stream": {"listen": self.address, "heartbeat": HEARTBEAT},
            "election": {"kind": "static", "primary": primary},
            "log": {"level": "debug"},
        }
        for section, values in sections.items():
            tables.setdefault(section, {}).update(values)
        if tables["election"]["kind"] != "file" and self.write_back:
            tables["mount"].setdefault("write-back", True)
        if tables["election"]["kind"] != "static":
            del tables["election"]["primary"]
        lines = []
        for section, values in tables.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.config_path.write_text("\n".join(lines) + "\n")

    # --- life

    def limit_open_files(self, soft: int) -> None:
        """From the next start on, as `ulimit -S -n` does."""
        self._inside = ["prlimit", f"--nofile={soft}:", *self._inside]

    def confine(self, inside: Sequence[str]) -> None:
        """From the next start on, behind this beginning of a command line."""
        self._inside = [*inside, *self._inside]

    def shift_clock(self, clock: str, seconds: int) -> None:
        """From the next start on, its boot or monotonic clock is so much ahead (as root)."""
        self._inside = ["unshare", "--time", f"--{clock}", str(seconds), *self._inside]

    def start(self, *, ready: bool = True, command: list[str] | None = None) -> Node:
        """Run `litemq up`; by default until it is ready."""
        assert self._process is None, f"{self.name} runs"
        self._told_to_stop = False
        with open(self.directory / "stderr", "ab") as stderr:
            self._process = subprocess.Popen(
                [
                    *self._inside,
                    sys.executable, "-m", "litemq", "up", "--config", str(self.config_path),
                    *(["--", *command] if command else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=self.directory,
                env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH") or IMPORT_PATH},
            )  # fmt: skip
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, *, timeout_s: float = START_S) -> None:
        """Until `status` says so; fails at once when the process has ended."""

        def is_ready() -> bool:
            assert self._process is not None
            code = self._process.poll()
            if code is not None:
                raise RuntimeError(f"{self.name} ended with {code}:\n{self.stderr()[-2000:]}")
            status = self.status()
            return status is not None and status.ready

        eventually(is_ready, timeout_s=timeout_s, what=f"{self.name} is ready")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self._process is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, *, timeout_s: float = STOP_S) -> int:
        """The exit code of the process."""
        assert self._process is not None
        self._let_go()
        code = self._process.wait(timeout_s)
        self._process = None
        return code

    def tell_to_stop(self) -> None:
        """What `stop` begins with, for several nodes at once."""
        if self._process is not None and not self._told_to_stop:
            self._told_to_stop = True
            self._let_go()
            self.send_signal(signal.SIGTERM)

    def stop(self, *, timeout_s: float = STOP_S) -> None:
        """End it as an operator does, and have it end well."""
        self.tell_to_stop()
        assert self.wait(timeout_s=timeout_s) == 0, f"{self.name} did not end well"

    def signal_all(self, number: int) -> None:
        """A signal for every process of the node, the supervisor first."""
        for pid in sorted(processes_below(self.directory), key=lambda pid: pid != self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """kill -9 of the supervisor, with which every actor dies."""
        self._let_go()
        self.send_signal(signal.SIGKILL)
        self.wait()
        eventually(lambda: not processes_below(self.directory), what="the actors die with it")

    # --- what it tells

    def status(self) -> m.NodeStatus | None:
        """What `litemq status` shows; None when the node does not answer."""
        endpoints = Endpoints(configuration.load(self.config_path).run_dir)
        if not endpoints.run_dir.exists():
            return None
        number = next(_requests)
        reply_to = endpoints.reply(f"test-{os.getpid()}-{number}")
        receiver = Receiver.bind(reply_to)
        sender = Sender(endpoints.control)
        try:
            sender.send(m.AskStatus(number, reply_to))
            if receiver.wait(int(STATUS_S * 1000) if self.running else 0):
                for message, _ in receiver.drain():
                    if isinstance(message, m.NodeStatus):
                        return message
        finally:
            sender.close(linger_ms=0)
            receiver.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(reply_to.removeprefix("ipc://"))
        return None

    def actor(self, name: str) -> m.ActorStatus:
        """An actor that runs."""

        def find() -> m.ActorStatus | None:
            status = self.status()
            found = [each for each in status.actors if each.name == name] if status else []
            return found[0] if found and found[0].pid and found[0].state == "running" else None

        found: m.ActorStatus = eventually(find, what=f"{name} runs on {self.name}")
        return found

    def kill_actor(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal an actor; its pid."""
        pid = self.actor(name).pid
        os.kill(pid, number)
        return pid

    def position(self, database: str) -> Position | None:
        """What `NAME-pos` says; None when there is no such database."""
        path = self.mount / f"{database}-pos"
        if not self.fuse:
            path = self.data_dir / "databases" / log_folder(database) / "position"
        data = self.hands.ask("read", str(path))
        return parse(data.decode().strip()) if data else None

    def logged_checksums(self, database: str, pages: int) -> list[int]:
        """Page checksums as the node's log has them; 0: SQLite never wrote the page."""
        directory = self.data_dir / "databases" / log_folder(database)
        try:
            raw = read_page_checksums(directory / "pages.sum", pages)
        except FormatError:
            return []  # it holds fewer, for now
        return [int.from_bytes(raw[at : at + 8], "big") for at in range(0, len(raw), 8)]

    def image(self, database: str) -> dict[str, Any]:
        """The committed pages, as a process of its own reads them through SQLite."""
        path = quote(str(self.mount / database))
        hands = self.hands
        try:
            hands.open(f"file:{path}?mode=ro", uri=True)
            image: dict[str, Any] = hands.ask("image")
        except AssertionError:  # it may hang in the mount, or answer too late
            self._let_go()
            raise
        finally:
            if hands is self._hands:
                hands.disconnect()
        return image

    # --- processes that use it

    def connect(self, database: str, *, timeout_s: float = 10.0) -> SqlProcess:
        """An application with a connection to this node's database."""
        return SqlProcess(self.mount / database, timeout_s=timeout_s)

    @property
    def hands(self) -> SqlProcess:
        """A process that looks at files of the mount on the test's behalf."""
        if self._hands is None:
            self._hands = SqlProcess(lasting=True)
        return self._hands

    def _let_go(self) -> None:
        if self._hands is not None:
            self._hands.kill()
            self._hands = None

    # --- logs

    def log(self) -> list[dict[str, Any]]:
        """The structured log since the test began, oldest line first."""
        directory = log_path(self.data_dir).parent
        files = sorted(directory.glob("node.jsonl.*"), reverse=True) if directory.exists() else []
        files += [path for path in [log_path(self.data_dir)] if path.exists()]
        return [json.loads(line) for path in files for line in path.read_bytes().splitlines()]

    def logged(self, event: str, **values: Any) -> list[dict[str, Any]]:
        """Lines whose event matches the regular expression, and whose keys have these values."""
        return [
            line
            for line in self.log()
            if re.search(event, line["event"])
            and all(line.get(key) == value for key, value in values.items())
        ]

    def announce(self, *events: str) -> None:
        """Warnings and errors (regular expressions of their events) that this test brings about."""
        self._announced += [re.compile(event) for event in events]

    def unannounced(self) -> list[str]:
        """Warnings, errors and tracebacks that nobody announced."""
        lines = self.log()
        found = [
            json.dumps(line)
            for at, line in enumerate(lines)
            if line["level"] in ("warning", "error", "critical")
            and not any(pattern.search(line["event"]) for pattern in self._announced)
            and not _is_of_a_busy_machine(line, lines[at:])
        ]
        if "Traceback (most recent call last)" in self.stderr() and not self._announced:
            found.append(f"a traceback on stderr:\n{self.stderr()[-3000:]}")
        return [f"{self.name}: {each}" for each in found]

    def stderr(self) -> str:
        path = self.directory / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def report(self, lines: int = 60) -> str:
        """The end of the log for people: who said what when."""
        out = []
        for line in self.log()[-lines:]:
            rest = {
                key: value
                for key, value in line.items()
                if key not in ("time", "level", "event", "node", "pid")
            }
            out.append(f"{line['time'][11:]} {line['level']:8} {line['event']} {rest}")
        others = [line for line in self.stderr().splitlines() if not line.startswith("{")]
        return "\n".join([*out, *others[-40:]])

    def close(self) -> list[str]:
        """Stop it if it runs; what went wrong."""
        wrong = []
        if self._process is not None:
            try:
                self.stop()
            except (AssertionError, subprocess.TimeoutExpired, ProcessLookupError) as error:
                wrong.append(f"{self.name}: {error}")
        wrong += [f"still mounted: {path}" for path in mounts_below(self.directory)]
        left = processes_below(self.directory)
        wrong += [f"still running: {describe(pid)}" for pid in left]
        if wrong:
            clear(self.directory)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        return wrong


def _is_of_a_busy_machine(line: dict[str, Any], since: list[dict[str, Any]]) -> bool:
    """Whether that was a matter of time alone, `since` the line: all nodes share one machine."""
    if line["event"] == "the primary is silent":
        return any(each["event"] == "following" for each in since)
    return line["event"].startswith("a step of the shutdown takes too long") and patience() > 1


class Cluster:
    """A primary and its replicas."""

    #: the clusters that are up, for the report of a failing test
    alive: list[Cluster] = []  # noqa: RUF012 - one list for the run

    def __init__(self, directory: Path, *, sections: Sections | None = None) -> None:
        self.directory = directory
        self._sections = sections or {}
        self._names = itertools.count(1)
        self.primary = Node(directory / "primary", "primary", sections=sections)
        self.replicas: list[Node] = []
        Cluster.alive.append(self)

    @property
    def nodes(self) -> list[Node]:
        return [self.primary, *self.replicas]

    def add_replica(
        self, *, fuse: bool = True, start: bool = True, sections: Sections | None = None
    ) -> Node:
        name = f"replica{next(self._names)}"
        node = Node(
            self.directory / name, name, primary=self.primary.address, fuse=fuse,
            sections=sections or self._sections,
        )  # fmt: skip
        self.replicas.append(node)
        return node.start() if start else node

    def start(self) -> Cluster:
        """Start every node that does not run, all at once."""
        starting = [node for node in self.nodes if not node.running]
        for node in starting:
            node.start(ready=False)
        for node in starting:
            node.wait_ready()
        return self

    # --- what is true of all nodes

    def captured(self, database: str, *, timeout_s: float = 20.0) -> Position:
        """Wait until the primary's log is the committed database, page by page; its position."""
        return self._captured(database, timeout_s)[0]

    def _captured(self, database: str, timeout_s: float) -> tuple[Position, dict[str, Any]]:
        """The same, and the pages that were compared, as `Node.image` gives them."""
        primary = self.primary

        def check() -> tuple[Position, dict[str, Any]]:
            image = primary.image(database)
            position = primary.position(database)
            assert position is not None, f"no {database}-pos"
            logged = primary.logged_checksums(database, len(image["checksums"]))
            assert len(logged) == len(image["checksums"]), "the log has another size"
            wrong = [
                number
                for number, (found, known) in enumerate(
                    zip(image["checksums"], logged, strict=True), 1
                )
                if known and found and int(found, 16) != known
            ]
            assert not wrong, f"pages of {database} that the log has otherwise: {wrong[:20]}"
            total = EMPTY
            for checksum in logged:
                total ^= checksum & ~EMPTY
            assert position.checksum == total, f"{position} is not of these pages ({total:016x})"
            return position, image

        found: tuple[Position, dict[str, Any]] = eventually(
            check, timeout_s=timeout_s, what=f"{database} is in the log"
        )
        return found

    def agree(self, database: str, *, timeout_s: float = 20.0) -> Position:
        """Wait until every running node has the same position and the same pages; that position."""
        position, image = self._captured(database, timeout_s)
        for replica in self.replicas:
            if not replica.running:
                continue
            eventually(
                lambda replica=replica: replica.position(database),
                until=position,
                timeout_s=timeout_s,
                what=f"{replica.name} has {database} at {position.text}",
            )
            found = replica.image(database)
            assert found["page_size"] == image["page_size"]
            sizes = len(found["digests"]), len(image["digests"])
            assert sizes[0] == sizes[1], f"{database} on {replica.name} has {sizes} pages"
            never_written = {
                number
                for number, known in enumerate(
                    self.primary.logged_checksums(database, len(image["digests"])), 1
                )
                if not known
            }
            wrong = [
                number
                for number, (theirs, ours) in enumerate(
                    zip(found["digests"], image["digests"], strict=True), 1
                )
                if theirs != ours and number not in never_written
            ]
            assert not wrong, f"pages of {database} that differ on {replica.name}: {wrong[:20]}"
        return position

    def gone(self, database: str, *, timeout_s: float = 20.0) -> None:
        """Wait until no running node has the database."""
        for node in self.nodes:
            if node.running:
                eventually(
                    lambda node=node: (
                        node.position(database) is None
                        and database not in node.hands.ask("listing", str(node.mount))
                    ),
                    timeout_s=timeout_s,
                    what=f"{database} is gone from {node.name}",
                )

    # --- the end

    def close(self) -> list[str]:
        """Stop every node, the primary last; what went wrong, one entry each.

        The replicas at once: to end is to wait. A primary without them has nobody to wait for, and
        none of those that it could hand over to makes a primary's actors for a moment.
        """
        wrong = []
        primary = [node for node in self.nodes if self._is_primary(node)]
        replicas = [node for node in self.nodes if node not in primary]
        for nodes in (replicas, primary):
            for node in nodes:
                with contextlib.suppress(ProcessLookupError):
                    node.tell_to_stop()
            for node in nodes:
                wrong += node.close()
                wrong += node.unannounced()
        Cluster.alive.remove(self)
        return wrong

    def _is_primary(self, node: Node) -> bool:
        return node is self.primary
