"""The zeros that are laid out ahead of a WAL's writer: never in its way, never in its data."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest
from nodes import Cluster
from sql_process import SqlProcess
from waiting import eventually

pytestmark = pytest.mark.fuse


def behind(cluster: Cluster, name: str) -> Path:
    """The backing file of a name in the primary's mount."""
    return cluster.primary.data_dir / "files" / name


def test_wal_when_written_then_it_is_as_long_as_it_is_natively(
    cluster: Cluster, write_back: bool, tmp_path: Path
) -> None:
    """To `stat` and to a copy, at every length, cut to nothing, and started over."""
    wal = cluster.primary.mount / "a.db-wal"
    native = SqlProcess(tmp_path / "a.db")
    app = cluster.primary.connect("a.db")

    def run(*statements: str) -> None:
        app.script(*statements)
        native.script(*statements)
        shown = wal.stat().st_size
        assert shown == (tmp_path / "a.db-wal").stat().st_size
        assert len(subprocess.check_output(["cat", wal])) == shown
        on_disk = behind(cluster, "a.db-wal").read_bytes()
        assert not on_disk[shown:].strip(b"\0"), "more was written than is shown"
        if shown and not write_back:
            assert len(on_disk) > shown, "nothing is laid out ahead"

    run("PRAGMA journal_mode=wal", "PRAGMA wal_autocheckpoint=0", "CREATE TABLE t(x)")
    for size in (10, 10, 5000, 40_000, 400_000):
        run(f"INSERT INTO t VALUES(zeroblob({size}))")
    run("PRAGMA wal_checkpoint", "INSERT INTO t VALUES(1)")
    run("PRAGMA wal_checkpoint(TRUNCATE)")
    run("INSERT INTO t VALUES(2)", "BEGIN", "INSERT INTO t VALUES(zeroblob(9000))", "ROLLBACK")
    native.close()
    app.close()
    cluster.agree("a.db")


def test_wal_when_a_program_looks_at_its_length_all_the_time_then_no_write_is_lost(
    cluster: Cluster,
) -> None:
    """The kernel must not cut its pages at the length that it passes on."""
    stop = threading.Event()
    looks = 0

    def look() -> None:
        nonlocal looks
        while not stop.is_set():
            with contextlib.suppress(FileNotFoundError):
                os.stat(cluster.primary.mount / "a.db-wal")
            looks += 1

    with cluster.primary.connect("a.db") as app, cluster.primary.connect("a.db") as reader:
        app.script("PRAGMA journal_mode=wal", "PRAGMA wal_autocheckpoint=200", "CREATE TABLE t(x)")
        watchers = [threading.Thread(target=look) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        try:
            for _ in range(500):
                app.sql("INSERT INTO t VALUES(randomblob(3000))")
            eventually(lambda: looks > 100, what="the watchers look")
        finally:
            stop.set()
            for watcher in watchers:
                watcher.join()
        assert reader.sql("PRAGMA integrity_check") == [("ok",)]
        assert reader.one("SELECT count(*) FROM t") == 500
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
