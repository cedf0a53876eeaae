"""What was synced is durable: the power of the primary's disk is cut, with programs at work.

The disk is a real file system on a loop device, shut down so that nothing reaches it any more.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import require_program
from disks import PoweredDisk, powered_disk  # noqa: F401 - a fixture
from nodes import Cluster, Node
from sql_process import SqlError
from waiting import eventually

pytestmark = [pytest.mark.caches, pytest.mark.fuse]

#: file system, journal mode, synchronous
FAST = [("xfs", "wal", "full"), ("ext4", "delete", "extra")]
OTHERS = [
    (file_system, *mode)
    for file_system in ("ext4", "xfs")
    for mode in (("wal", "full"), ("delete", "extra"), ("truncate", "full"), ("persist", "full"))
    if (file_system, *mode) not in FAST
]
#: rows that are acknowledged before the power goes
ROWS = 40
#: what a node says when its disk dies under it, and when it comes back
TROUBLE = (".*",)


def powered(cluster: Cluster, disk: PoweredDisk) -> Node:
    """The cluster's primary, with its data on that disk."""
    primary = cluster.primary
    primary.data_dir = disk.path / "data"
    primary.configure(primary.address, {})
    return primary


def forget_boot(node: Node) -> None:
    """Its machine has started anew, as far as its logs can tell."""
    for state in (node.data_dir / "databases").glob("*/state.json"):
        document = json.loads(state.read_text())
        document["boot_id"] = "the boot before"
        state.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("powered_disk", "journal", "synchronous"),
    [
        *FAST,
        *(pytest.param(*each, marks=pytest.mark.torture) for each in OTHERS),
    ],
    indirect=["powered_disk"],
)
def test_rows_when_the_power_is_cut_then_what_was_acknowledged_is_there(
    powered_disk: PoweredDisk,  # noqa: F811
    new_cluster: Callable[..., Cluster],
    journal: str,
    synchronous: str,
) -> None:
    """Of every program that syncs its commits; the replica ends as the primary does."""
    cluster = new_cluster(start=False)
    cluster.primary.announce(*TROUBLE)
    # it may be ahead of what the disk has kept
    cluster.replicas[0].announce("does not have are kept aside", "the primary is silent")
    primary = powered(cluster, powered_disk)
    cluster.start()
    with primary.connect("a.db") as app:
        app.script(
            f"PRAGMA journal_mode={journal}",
            f"PRAGMA synchronous={synchronous}",
            "CREATE TABLE t(x)",
        )
        for number in range(ROWS):
            app.sql("INSERT INTO t VALUES(?)", number)
        powered_disk.cut()
        with pytest.raises(SqlError):
            app.sql("INSERT INTO t VALUES(?)", ROWS)
    primary.kill()
    powered_disk.restore()
    forget_boot(primary)
    primary.start()
    with primary.connect("a.db") as app:
        assert app.one("PRAGMA integrity_check") == "ok"
        rows = [row for (row,) in app.sql("SELECT x FROM t ORDER BY x")]
        assert rows[:ROWS] == list(range(ROWS))
        app.sql("INSERT INTO t VALUES(1000)")
        cluster.agree("a.db", timeout_s=40)


CALLS = re.compile(r"(fsync|fdatasync)\(\d+<([^>]*)>")


@pytest.mark.caches(False)
def test_directory_when_sqlite_syncs_it_then_the_files_directory_is_synced(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Where a journal was made, and with synchronous=EXTRA where it was deleted."""
    primary = new_cluster(replicas=0).primary
    with primary.connect("a.db") as app:
        app.script("PRAGMA synchronous=EXTRA", "CREATE TABLE t(x)")
        trace = tmp_path / "trace"
        actor = str(primary.actor("fuse_capture").pid)
        command = [require_program("strace"), "-f", "-y", "-e", "trace=fsync,fdatasync"]
        command += ["-o", str(trace), "-p", actor]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracing:
            assert tracing.stderr is not None
            tracing.stderr.readline()  # it is attached
            app.sql("INSERT INTO t VALUES(1)")
            files = str(primary.data_dir / "files")
            synced = lambda: [name for _, name in CALLS.findall(trace.read_text())]  # noqa: E731
            eventually(lambda: synced().count(files) >= 2, what="the directory is synced twice")
            tracing.terminate()
        order = synced()
        journal, database = f"{files}/a.db-journal", f"{files}/a.db"
        assert order.index(journal) < order.index(files) < order.index(database), order
        assert files in order[order.index(database) :], order
