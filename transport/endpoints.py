"""Where the sockets of a node are: ipc paths in its run directory, tcp ports from its
configuration.

An endpoint is named by what it carries. The run directory is private (0700), so whoever can reach
an ipc endpoint is the node's own user.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The ipc endpoints of one node, all bound by the actor that reads them."""

    run_dir: Path

    def _ipc(self, name: str) -> str:
        return f"ipc://{self.run_dir / name}"

    @property
    def control(self) -> str:
        """Heartbeats and commands, read by the supervisor."""
        return self._ipc("control")

    @property
    def capture(self) -> str:
        """What happened in the mount, and barriers; read by the owner of the log."""
        return self._ipc("log")

    @property
    def gates(self) -> str:
        """Verdicts on held calls, positions, roles; read by the FUSE capture."""
        return self._ipc("gates")

    @property
    def records(self) -> str:
        """Appended records and barrier answers; read by the stream publisher."""
        return self._ipc("records")

    @property
    def election(self) -> str:
        """Changes of role that are done, and wishes; read by the election watcher."""
        return self._ipc("election")

    def reply(self, name: str) -> str:
        """A private endpoint for the answers to one asker."""
        return self._ipc(f"reply-{name}")
