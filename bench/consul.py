"""A Consul of a benchmark's own: one agent that is its own server, on ports of its own.

Owns its process and a directory. Never touches another Consul of the machine. Always true: it ends
with `close`, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self

from litemq.bench.hosts import Host
from litemq.bench.processes import end_with_parent, free_port
from litemq.errors import LiteMQError

START_S = 30.0
#: an agent that has just joined keeps single reports back no longer than this
SETTLE_S = 3.5
_LOOK_S = 0.05
_ANSWER_S = 5.0


def missing() -> str:
    """Why there can be no Consul here, "" if there can."""
    return "" if shutil.which("consul") else "no program consul"


class LocalConsul:
    """Serves from `__enter__` to `close`."""

    def __init__(self, directory: Path, host: Host | None = None) -> None:
        """Its files go to `directory`, which it makes; it runs on `host`, or simply here."""
        self._directory = directory
        self._host = host
        ip = "127.0.0.1" if host is None else host.ip
        port = free_port(set())
        self.address = f"http://{ip}:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        settings = {
            "server": True,
            "bootstrap": True,
            "data_dir": str(directory / "data"),
            "node_name": "bench",
            "bind_addr": ip,
            "client_addr": ip,
            "ports": {
                "http": port, "server": port + 1, "serf_lan": port + 2,
                "serf_wan": -1, "dns": -1, "grpc": -1,
            },
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "log_level": "debug",
        }  # fmt: skip
        (directory / "config.json").write_text(json.dumps(settings))

    def __enter__(self) -> Self:
        """Raises LiteMQError when it does not serve in time."""
        inside = [] if self._host is None else self._host.inside
        try:
            with (self._directory / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*inside, "consul", "agent", "-config-file=config.json"],
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=lambda: end_with_parent(signal.SIGKILL),
                )
            deadline_s = time.monotonic() + START_S
            while not self._serves():
                if time.monotonic() > deadline_s:
                    raise LiteMQError(
                        f"Consul did not serve within {START_S:.0f} s; {self._words()}"
                    )
                time.sleep(_LOOK_S)
            self._settle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _settle(self) -> None:
        """Wait until it has reported all it knows: until then it keeps single reports back."""
        latest_s = time.monotonic() + SETTLE_S
        while time.monotonic() < latest_s and self._log().count("Node info in sync") < 2:
            time.sleep(_LOOK_S)

    def _serves(self) -> bool:
        """Whether it has a leader and takes writes."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise LiteMQError(f"Consul ended by itself; {self._words()}")
        request = urllib.request.Request(
            f"{self.address}/v1/kv/litemq-bench-serves", data=b"", method="PUT"
        )
        there = contextlib.nullcontext() if self._host is None else self._host.entered()
        try:
            # never by way of a proxy
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with there, opener.open(request, timeout=_ANSWER_S) as answer:
                return bool(answer.read() == b"true")
        except OSError:
            return False

    def _words(self) -> str:
        lines = self._log().splitlines()
        return f"its last words: {lines[-1][:300]}" if lines else "it said nothing"

    def _log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
