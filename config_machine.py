"""Whether this machine can do what a configuration asks for: paths, ports, private directories.

For `up` only. Never changes a configuration, and leaves nothing bound.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from litemq.config import Config, refuse
from litemq.config_rules import PORTS_PER_NODE, WILDCARD, split_address


def check_paths(config: Config) -> None:
    """What stands at `data-dir` and `path` must be usable. For `up` only: it looks at the mount."""
    for section, key, path in config.directories:
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            if not os.access(path.parent, os.W_OK):
                refuse(config.path, section, key, f"{path} can't be created: no write permission")
            continue
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                continue  # a killed node left it mounted; fs/mount.py cleans up
            refuse(config.path, section, key, f"{path}: {error.strerror}")
        if not stat.S_ISDIR(mode):
            refuse(config.path, section, key, f"{path} is not a directory")
    if config.node.data_dir.exists() and not os.access(config.node.data_dir, os.W_OK | os.X_OK):
        refuse(config.path, "node", "data-dir", f"{config.node.data_dir} is not writable")


def check_ports(config: Config) -> str:
    """Every port must be free, and stays so. Why to wait, if the address is not there yet."""
    _check_own_address(config)
    host, first = split_address(config.stream.listen)
    for port in range(first, first + PORTS_PER_NODE):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ binds
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    return f"{host} is not an address of this machine"
                reason = {
                    errno.EADDRINUSE: f"port {port} on {host} is in use",
                    errno.EACCES: f"port {port} needs root",
                }.get(error.errno or 0, f"port {port} on {host}: {error.strerror}")
                refuse(config.path, "stream", "listen", reason)
    return ""


def _check_own_address(config: Config) -> None:
    """A node that is meant to be the primary must not become a replica of itself."""
    if config.election.primary is None or config.is_primary:
        return
    host, port = split_address(config.stream.listen)
    primary_host, primary_port = split_address(config.election.primary)
    address = _local_address(primary_host) if port == primary_port else None
    if address is None or host not in (WILDCARD, address):
        return
    own = f"tcp://{address}:{port}"
    if host == WILDCARD:
        where = "" if own == config.election.primary else " here and as [election] primary"
        reason = f"write {own}{where}: only the same text makes this node the primary"
        refuse(config.path, "stream", "listen", reason)
    reason = f"is this node under another name; write {own}, the text of [stream] listen"
    refuse(config.path, "election", "primary", reason)


def prepare_directories(config: Config) -> None:
    """Create `data-dir` and the run directory, private to this user; repeatable."""
    for directory in (config.node.data_dir, config.run_dir):
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
            # In a shared /tmp somebody else may have made the name first, or a link in its place.
            private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if not private and config.node.data_dir not in (directory, directory.parent):
                refuse(config.path, "node", "data-dir", f"{directory} belongs to somebody else")
            directory.chmod(0o700)
        except OSError as error:
            refuse(config.path, "node", "data-dir", f"{directory}: {error.strerror}")


def _local_address(host: str) -> str | None:
    """The address of that name, if it is one of this machine."""
    try:
        address = socket.gethostbyname(host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except (OSError, UnicodeError):  # it may be known later
        return None
    return address
