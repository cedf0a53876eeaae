"""A real Consul agent for tests: by default its own server, on loopback, with a data directory.

It keeps its state over `restart` and loses it with `empty`. Its working directory is the test
run's, so that whatever a killed run leaves behind is found and ended by the next.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capabilities import require_program
from namespaces import Host
from ports import free_port
from waiting import eventually

START_S = 30.0
TTL_S = 0.6
"""Of the leases in tests."""


class ConsulServer:
    """Started by `start`, ended by `close`. With `acl`, it refuses whoever has no token."""

    MASTER_TOKEN = "5ca1ab1e-0000-4000-8000-000000000001"

    def __init__(
        self, directory: Path, data: Path, *, acl: bool = False, host: Host | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """It keeps its state in `data`, and runs on `host`, a namespace, or beside the test.

        `settings` stand above what every agent of tests has.

        Each renewal of a lease is synced there, so it had better be a directory in memory.
        """
        self._program = require_program("consul")
        self._directory = directory
        self._data = data
        self._acl = acl
        self._process: subprocess.Popen[bytes] | None = None
        self._host = host
        self._ip = "127.0.0.1" if host is None else host.ip
        self.port = free_port()
        self.address = f"http://{self._ip}:{self.port}"
        self.raft_port, self.serf_port = self.port + 1, self.port + 2
        directory.mkdir(parents=True)
        #: what the next start goes by
        self.settings = self._settings() | dict(settings or {})

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "server": True,
            "bootstrap": True,
            "data_dir": str(self._data),
            "node_name": "test",
            "bind_addr": self._ip,
            "client_addr": self._ip,
            "ports": {
                "http": self.port,
                "server": self.raft_port,
                "serf_lan": self.serf_port,
                "serf_wan": -1,
                "dns": -1,
                "grpc": -1,
            },
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "log_level": "debug",
        }
        if self._acl:
            tokens = {"master": self.MASTER_TOKEN, "agent": self.MASTER_TOKEN}
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": tokens}
        return settings

    def start(self) -> ConsulServer:
        """It has a leader and takes writes when this returns."""
        self.run()
        self.wait_serves()
        return self

    def run(self) -> None:
        """Start the process, whatever becomes of it."""
        (self._directory / "config.json").write_text(json.dumps(self.settings))
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *([] if self._host is None else self._host.inside),
                    self._program,
                    "agent",
                    "-config-file=config.json",
                ],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_serves(self) -> None:
        eventually(self.serves, timeout_s=START_S, what=f"Consul serves; {self.log()}")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def settle(self) -> None:
        """Wait until the end of a check reaches the server as soon as it comes.

        When a server joins, an agent reports all it knows once more, up to three seconds later so
        that not all agents do so at once, and keeps single reports back until then.
        """
        latest_s = time.monotonic() + 3.5
        path = self._directory / "log"
        eventually(
            lambda: (
                path.read_text(errors="replace").count("Node info in sync") > 1
                or time.monotonic() > latest_s
            )
        )

    def serves(self) -> bool:
        """Whether it takes a write."""
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.call("PUT", "/v1/kv/test-serves", b"") == b"true"
        except OSError:
            return False

    def _has_stopped(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        try:
            return all(each.read_text().rpartition(") ")[2].startswith("T") for each in threads)
        except (FileNotFoundError, ProcessLookupError):  # one has just ended, so others may run
            return False

    def kill(self) -> None:
        """As a power loss would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def terminate(self) -> None:
        """As `systemctl stop` does: a server stays a member, a client leaves."""
        assert self._process is not None
        self._process.terminate()
        self._end()

    def leave(self) -> None:
        """As `consul leave` does: it takes its leave of the others, then it ends."""
        # the answer may be lost with the process
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.call("PUT", "/v1/agent/leave", b"", timeout_s=START_S)
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait(START_S)

    def restart(self) -> None:
        self.kill()
        self.start()

    def forget(self) -> None:
        """Lose its state while it does not run."""
        assert self._process is None
        shutil.rmtree(self._data)

    def empty(self) -> None:
        """Start again with nothing."""
        self.kill()
        self.forget()
        self.start()

    @contextlib.contextmanager
    def stopped(self) -> Any:
        """The process takes no step, and its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        eventually(self._has_stopped, what="no thread of it runs")
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def call(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float = 10
    ) -> bytes:
        """A request by hand, as an operator would make one."""
        headers = {"X-Consul-Token": self.MASTER_TOKEN} if self._acl else {}
        request = urllib.request.Request(
            self.address + path, data=body, method=method, headers=headers
        )
        there = contextlib.nullcontext() if self._host is None else self._host.entered()
        with there, urllib.request.urlopen(request, timeout=timeout_s) as answer:
            content: bytes = answer.read()
        return content

    def ask(self, path: str) -> Any:
        """The JSON under a path; None if there is nothing."""
        try:
            return json.loads(self.call("GET", path))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def sessions(self) -> list[str]:
        return [each["ID"] for each in self.ask("/v1/session/list")]

    def make_token(self, rules: str, name: str) -> str:
        """The secret of a token that may do what the rules (HCL) say."""
        policy = json.dumps({"Name": name, "Rules": rules}).encode()
        self.call("PUT", "/v1/acl/policy", policy)
        token = json.dumps({"Policies": [{"Name": name}]}).encode()
        secret: str = json.loads(self.call("PUT", "/v1/acl/token", token))["SecretID"]
        return secret

    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
