"""The zeros that are laid out ahead of a WAL's writer: never in its way, never in its data."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from nodes import Cluster
from waiting import eventually

pytestmark = pytest.mark.fuse


def behind(cluster: Cluster, name: str) -> Path:
    """The backing file of a name in the primary's mount."""
    return cluster.primary.data_dir / "files" / name


def test_wal_when_written_then_the_mount_and_the_disk_show_the_same_bytes(
    cluster: Cluster, write_back: bool
) -> None:
    """At every length the file takes, and after it was cut to nothing."""
    wal = cluster.primary.mount / "a.db-wal"
    with cluster.primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "PRAGMA wal_autocheckpoint=0", "CREATE TABLE t(x)")
        for size in (10, 5000, 40_000, 400_000):
            app.sql("INSERT INTO t VALUES(randomblob(?))", size)
            assert wal.read_bytes() == behind(cluster, "a.db-wal").read_bytes()
            assert wal.stat().st_size == behind(cluster, "a.db-wal").stat().st_size
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        assert wal.read_bytes() == b""
        app.sql("INSERT INTO t VALUES(1)")
        assert wal.read_bytes() == behind(cluster, "a.db-wal").read_bytes()
        if write_back:  # the kernel splits no write: the file ends with its only frame
            assert wal.stat().st_size == 32 + 24 + 4096
        else:
            assert wal.stat().st_size % 4096 == 0, "nothing is laid out ahead"
    cluster.agree("a.db")


def test_wal_when_somebody_reads_it_to_its_end_then_writers_go_on(cluster: Cluster) -> None:
    """A reader holds locks of pages that the kernel is being told of."""
    wal = cluster.primary.mount / "a.db-wal"
    stop = threading.Event()
    reads = 0

    def read_all() -> None:
        nonlocal reads
        while not stop.is_set():
            with wal.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass
            reads += 1

    with cluster.primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "PRAGMA wal_autocheckpoint=0", "CREATE TABLE t(x)")
        readers = [threading.Thread(target=read_all) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            for _ in range(600):
                app.sql("INSERT INTO t VALUES(randomblob(9000))")
                if not app.one("SELECT count(*) FROM t") % 100:
                    app.sql("PRAGMA wal_checkpoint(TRUNCATE)")
            eventually(lambda: reads > 10, what="the readers read")
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert app.sql("PRAGMA integrity_check") == [("ok",)]
    assert cluster.primary.actor("fuse_capture").restarts == 0
    cluster.agree("a.db")
