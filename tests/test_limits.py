"""Limits of locks: those on memory a node does not need, those on files it names."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from leftovers import processes_below
from nodes import Cluster
from waiting import eventually

from litemq import config as configuration
from litemq.actors.client import is_running
from litemq.actors.layout import Layout
from litemq.actors.supervisor import Supervisor
from litemq.errors import StorageError


@pytest.mark.fuse
def test_node_when_it_may_lock_no_memory_then_it_needs_none(
    new_cluster: Callable[..., Cluster],
) -> None:
    """No process of it has a page locked, at work, and without the right to."""
    cluster = new_cluster(start=False)
    for node in cluster.nodes:
        node.confine(["prlimit", "--memlock=0:0"])
    cluster.start()
    with cluster.primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)", "INSERT INTO t VALUES(1)")
        cluster.agree("a.db")
    for node in cluster.nodes:
        pids = processes_below(node.directory)
        assert len(pids) >= 4
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "VmLck:\t       0 kB" in status


def test_node_when_there_are_no_file_locks_left_then_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start, a command, and whoever writes an epoch."""
    path = tmp_path / "node.toml"
    path.write_text(
        f'[node]\nname = "n"\ndata-dir = "{tmp_path}/data"\n[mount]\npath = "{tmp_path}/mount"\n'
        '[stream]\nlisten = "tcp://127.0.0.1:7999"\n'
        '[election]\nkind = "static"\nprimary = "tcp://127.0.0.1:7999"\n'
    )
    config = configuration.load(path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lock").touch()

    def none_left(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none_left)
    before = os.listdir("/proc/self/fd")
    for call in (
        Supervisor(config, [])._take_lock,
        lambda: is_running(config),
        lambda: Layout(config.node.data_dir).write_epoch(2),
    ):
        with pytest.raises(StorageError, match=r"cannot lock .*: No locks available") as refused:
            call()
        assert refused.value.errno == errno.ENOLCK
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before), what="nothing stays open")
