"""Three real Consul servers that elect their leader, and client agents, all on loopback.

Each LiteMQ node has an agent of its own. What is done to an agent here is what operators do: leave
in good order, stop, kill, start again, also under another name or with nothing of before.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consul_server import ConsulServer
from waiting import eventually

SERVERS = 3


class ConsulCluster:
    """`agents` are the servers, then the clients; what runs is ended by `close`."""

    def __init__(self, directory: Path, data: Path) -> None:
        """As for ConsulServer: `data` had better be in memory."""
        self._directory, self._data = directory, data
        self._numbers = itertools.count(1)
        self.agents: list[ConsulServer] = []

    def start(
        self, *, clients: int = 0, settings: Mapping[str, Any] | None = None
    ) -> ConsulCluster:
        """There is a leader, and all agents take writes, when this returns.

        `settings` are for all agents.
        """
        for number in range(SERVERS + clients):
            self._add(settings or {}, server=number < SERVERS)
        for agent in self.agents:
            agent.settings["retry_join"] = [
                f"127.0.0.1:{each.serf_port}" for each in self.agents[:SERVERS] if each is not agent
            ]
            agent.run()
        for agent in self.agents:
            agent.wait_serves()
        for agent in self.agents:
            agent.settle()
        return self

    def _add(self, settings: Mapping[str, Any], *, server: bool) -> None:
        name = f"agent{next(self._numbers)}"
        own: dict[str, Any] = {"node_name": name, "server": server, "retry_interval": "1s"}
        if server:
            own["bootstrap_expect"] = SERVERS
        agent = ConsulServer(self._directory / name, self._data / name, settings=own | settings)
        agent.settings.pop("bootstrap")
        self.agents.append(agent)

    # --- who is what

    @property
    def leader(self) -> ConsulServer:
        """The server that leads, as most say; waits until there is one."""

        def find() -> ConsulServer | None:
            for agent in self.agents:
                with contextlib.suppress(OSError):
                    address = agent.ask("/v1/status/leader")
                    for each in self.agents[:SERVERS]:
                        if each.running and address == f"127.0.0.1:{each.raft_port}":
                            return each
            return None

        found: ConsulServer = eventually(find, timeout_s=30, what="Consul's servers have a leader")
        return found

    def whole(self) -> bool:
        """All servers are voters, and every agent that runs takes writes."""
        for agent in self.agents:
            try:
                raft = agent.ask("/v1/operator/raft/configuration")
            except OSError:
                return False
            voters = {each["Address"] for each in raft["Servers"] if each["Voter"]}
            if voters != {f"127.0.0.1:{each.raft_port}" for each in self.agents[:SERVERS]}:
                return False
        return all(agent.serves() for agent in self.agents)

    def close(self) -> None:
        for agent in self.agents:
            agent.close()
