"""Hosts as network namespaces of one machine, joined by veth links and a bridge of their own.

What is cut here is cut in the kernel: packets vanish, nobody is told, connections stay open. Every
host knows the others' link addresses for good, so a direction is cut by a wrong one.
Needs root, and the programs `ip` and `nsenter`. Always true: nothing of it is seen outside of the
namespaces, and their names begin with the network's, by which those of a killed process are found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from litemq.errors import LiteMQError

NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_NOWHERE = "02:00:00:00:ff:ff"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Host:
    """One network namespace."""

    name: str
    number: int
    namespace: str

    @property
    def ip(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number:02x}"

    @property
    def inside(self) -> list[str]:
        """The beginning of a command line whose rest runs on this host; mounts stay shared."""
        return ["nsenter", f"--net={NETNS / self.namespace}"]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is on the host: sockets made now stay there."""
        with open("/proc/thread-self/ns/net") as home, open(NETNS / self.namespace) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


class Network:
    """Hosts that reach each other until something is cut."""

    def __init__(self, stem: str, names: Iterable[str]) -> None:
        """`stem` is what the names of all its namespaces begin with. Raises LiteMQError."""
        self._hub = f"{stem}-hub"
        self.hosts = {
            name: Host(name, number, f"{stem}-{name}") for number, name in enumerate(names, 1)
        }
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for namespace in [self._hub, *(host.namespace for host in self.hosts.values())]:
            _ip("netns", "add", namespace)
        _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "bridge", "up")
        for host in self.hosts.values():
            cable, there = f"to-{host.number}", ["-n", host.namespace]
            _ip("-n", self._hub, "link", "add", cable, "type", "veth",
                "peer", "name", "eth0", "address", host.mac, "netns", host.namespace)  # fmt: skip
            _ip("-n", self._hub, "link", "set", cable, "master", "bridge", "up")
            _ip(*there, "address", "add", f"{host.ip}/24", "dev", "eth0")
            _ip(*there, "link", "set", "lo", "up")
            _ip(*there, "link", "set", "eth0", "up")
        self.heal()

    # --- what is cut, and what is not

    def cut_one_way(self, sender: str, receiver: str) -> None:
        """What the one sends to the other is lost; the other direction works."""
        self._point(sender, receiver, _NOWHERE)

    def cut(self, one: str, other: str) -> None:
        """Lose everything between the two."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def unplug(self, name: str) -> None:
        """Pull the cable of a host."""
        self._cable(name, "down")

    def heal(self) -> None:
        """Everybody reaches everybody."""
        for one in self.hosts:
            self._cable(one, "up")
            for other in self.hosts:
                if other != one:
                    self._point(one, other, self.hosts[other].mac)

    def _point(self, sender: str, receiver: str, mac: str) -> None:
        there = ["-n", self.hosts[sender].namespace]
        _ip(*there, "neighbour", "replace", self.hosts[receiver].ip, "lladdr", mac,
            "dev", "eth0", "nud", "permanent")  # fmt: skip

    def _cable(self, name: str, state: str) -> None:
        _ip("-n", self._hub, "link", "set", f"to-{self.hosts[name].number}", state)

    def close(self) -> None:
        """Remove all of it; the processes on the hosts have ended."""
        for namespace in [*(host.namespace for host in self.hosts.values()), self._hub]:
            if (NETNS / namespace).exists():
                remove(namespace)


def missing() -> str:
    """Why there can be no hosts here, "" if there can."""
    if os.geteuid() != 0:
        return "it needs root"
    lacking = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
    return f"no program {lacking[0]} (Debian packages iproute2, util-linux)" if lacking else ""


def remove(namespace: str) -> None:
    """Take one away, with its end of every cable. Raises LiteMQError."""
    _ip("netns", "delete", namespace)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LiteMQError(f"ip {' '.join(words)}: {done.stderr.strip()}")
