"""Histories that part: what a deposed primary had is kept, shown, exported and dropped."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import environment, litemq, refused
from nodes import Cluster, Node
from waiting import eventually

from litemq.actors import divergence
from litemq.actors.layout import Layout
from litemq.log import log_path

NAME = "notes.db"
KEPT = "the primary does not have are kept aside"
DUE = (KEPT, "the primary is silent", "had changed without its log", "is not what the log says")


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """A primary and a replica that agree on three rows of `t`."""
    made = new_cluster()
    for node in made.nodes:
        node.announce(*DUE)
    with made.primary.connect(NAME) as app:
        app.sql("PRAGMA journal_mode=wal")
        app.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        app.sql("CREATE TABLE other(v)")
        for number in range(3):
            app.sql(f"INSERT INTO t VALUES({number}, 'common')")
    made.agree(NAME)
    return made


def write(node: Node, first: int, last: int) -> None:
    """Rows that only this node's history has."""
    with node.connect(NAME) as app:
        for number in range(first, last):
            app.sql(f"INSERT INTO t VALUES({number}, '{node.name}')")


def depose(cluster: Cluster) -> tuple[Node, Node]:
    """The replica becomes primary under a higher epoch; (the old primary, the new one), stopped."""
    old, (new,) = cluster.primary, cluster.replicas
    if new.running:
        new.stop()
    Layout(new.data_dir).write_epoch(10)
    new.configure(new.address, {})
    old.configure(new.address, {})
    return old, new


def parted(cluster: Cluster, *, rows: int = 5) -> tuple[Node, Node]:
    """Both write after they were parted, then the old primary follows the new one."""
    (replica,) = cluster.replicas
    replica.stop()
    write(cluster.primary, 100, 100 + rows)
    cluster.captured(NAME)
    cluster.primary.stop()
    old, new = depose(cluster)
    new.start()
    write(new, 200, 202)
    old.start()
    wait_equal(old, new)
    return old, new


def wait_equal(old: Node, new: Node) -> None:
    eventually(
        lambda: (
            old.position(NAME) == new.position(NAME)
            and old.image(NAME)["digests"] == new.image(NAME)["digests"]
        ),
        timeout_s=30.0,
        what="the old primary has what the new one has",
    )


def listed(node: Node) -> list[dict[str, Any]]:
    done = litemq("diverged", "list", "--config", node.config_path, "--format", "json")
    assert done.code == 0
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def shown(node: Node, name: str) -> dict[str, Any]:
    done = litemq("diverged", "show", "--config", node.config_path, name, "--format", "json")
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def values(path: Path) -> dict[int, str]:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(database.execute("SELECT id, v FROM t"))


@pytest.mark.fuse
def test_deposed_primary_when_it_returns_then_its_rows_are_listed_shown_and_exported(
    cluster: Cluster, tmp_path: Path
) -> None:
    """What it had acknowledged and the new primary never got is told to the row."""
    old, new = parted(cluster)
    (entry,) = listed(old)
    assert entry["database"] == NAME
    assert entry["last_common"] + 1 == entry["from_txid"]
    assert entry["kept"] == 5 == entry["to_txid"] - entry["last_common"]
    assert entry["primary"] == new.name
    assert entry["primary_epoch"] > 10
    assert entry["bytes"] > 0
    text = litemq("diverged", "list", "--config", old.config_path)
    assert text.code == 0
    assert entry["id"] in text.out
    assert listed(new) == []

    found = shown(old, entry["id"])["transactions"]
    assert [each["txid"] for each in found] == [entry["last_common"] + n for n in range(1, 6)]
    for each in found:
        (table,) = each["tables"]
        assert (table["table"], table["inserted"], table["deleted"]) == ("t", 1, 0)
        assert table["changed"] == 0
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+Z", each["time"])
    lines = litemq("diverged", "show", "--config", old.config_path, entry["id"])
    assert "5 transactions beyond TXID" in lines.out

    ltx, copy = tmp_path / "ltx", tmp_path / "lost.db"
    done = litemq(
        "diverged", "export", "--config", old.config_path, entry["id"], ltx, "--database", copy
    )
    assert done.code == 0, done
    lost = dict.fromkeys(range(100, 105), old.name)
    common = dict.fromkeys(range(3), "common")
    assert values(copy) == common | lost
    litestream = shutil.which("litestream", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if litestream is not None:
        restored = tmp_path / "restored.db"
        subprocess.run([litestream, "restore", "-o", restored, f"file://{ltx}"], check=True)
        assert values(restored) == common | lost

    status = litemq("status", "--config", old.config_path, "--format", "json")
    assert json.loads(status.out)["diverged"] == 1
    assert "litemq diverged list" in litemq("status", "--config", old.config_path).out
    (line,) = old.logged(KEPT)
    assert line["id"] == entry["id"]
    assert line["transactions"] == 5

    # all of it also when the node is down, and the entry outlives its restarts
    old.stop()
    assert shown(old, entry["id"])["transactions"] == found
    old.start()
    wait_equal(old, new)
    assert [each["id"] for each in listed(old)] == [entry["id"]]


@pytest.mark.fuse
def test_node_when_it_is_only_behind_then_nothing_is_kept(cluster: Cluster) -> None:
    """An old primary that had nothing of its own follows without an alarm."""
    cluster.primary.stop()
    old, new = depose(cluster)
    new.start()
    write(new, 200, 205)
    old.start()
    wait_equal(old, new)
    assert listed(old) == []
    assert litemq("diverged", "list", "--config", old.config_path).out == "nothing diverged\n"
    assert (
        json.loads(litemq("status", "--config", old.config_path, "--format", "json").out)[
            "diverged"
        ]
        == 0
    )
    assert not old.logged(KEPT)


@pytest.mark.fuse
def test_database_when_it_diverges_twice_then_there_are_two_entries(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Nothing is overwritten, and what was kept first is shown as before."""
    first, second = parted(cluster)
    (entry,) = listed(first)
    before = shown(first, entry["id"])
    second.stop()
    first.stop()
    # the deposed is primary again, and loses a second time
    Layout(first.data_dir).write_epoch(20)
    first.configure(first.address, {})
    first.start()
    write(first, 300, 303)
    eventually(lambda: first.position(NAME), what="it is logged")
    first.stop()
    Layout(second.data_dir).write_epoch(30)
    first.configure(second.address, {})
    second.start()
    write(second, 400, 404)
    first.start()
    wait_equal(first, second)
    kept, again = listed(first)
    assert kept["id"] == entry["id"]
    assert again["kept"] >= 3
    assert shown(first, entry["id"]) == before
    # the log began behind the first repair: of a page's first change it can't tell the rows
    found = shown(first, again["id"])["transactions"][-3:]
    assert all(table["table"] == "t" for each in found for table in each["tables"])
    inserted = [table["inserted"] for each in found for table in each["tables"]]
    assert set(inserted) <= {1, None}
    assert inserted[-1] == 1
    copy = tmp_path / "again.db"
    done = litemq(
        "diverged", "export", "--config", first.config_path, again["id"], "--database", copy
    )
    assert done.code == 0, done
    assert {300, 301, 302} <= set(values(copy))


@pytest.mark.fuse
def test_repair_when_nothing_can_be_kept_then_it_waits_until_it_can(cluster: Cluster) -> None:
    """The log is not replaced before what it holds is safe elsewhere."""
    cluster.primary.announce("a repair failed")
    (replica,) = cluster.replicas
    replica.stop()
    write(cluster.primary, 100, 105)
    position = cluster.captured(NAME)
    cluster.primary.stop()
    old, new = depose(cluster)
    folder = Layout(old.data_dir).diverged
    folder.write_text("in the way")
    new.start()
    write(new, 200, 202)
    old.start(ready=False)
    eventually(lambda: old.logged("a repair failed"), timeout_s=30.0, what="it says so")
    assert "can't keep" in old.logged("a repair failed")[0]["reason"]
    assert old.position(NAME) == position
    folder.unlink()
    old.wait_ready()
    wait_equal(old, new)
    assert [each["kept"] for each in listed(old)] == [5]


@pytest.mark.fuse
@pytest.mark.parametrize(
    ("mode", "restarted"), [("wal", False), ("delete", False), ("delete", True)]
)
def test_rows_when_their_primary_died_before_they_were_logged_then_they_are_kept_too(
    cluster: Cluster, mode: str, restarted: bool, tmp_path: Path
) -> None:
    """A commit returns before the log has it: what only the file has is logged before a repair.

    Also when the log had all of the file at a stop before.
    """
    cluster.primary.announce("no sign of life", "actor ended")
    (replica,) = cluster.replicas
    with cluster.primary.connect(NAME) as app:
        app.sql(f"PRAGMA journal_mode={mode}")
    cluster.agree(NAME)
    replica.stop()
    write(cluster.primary, 100, 103)
    cluster.captured(NAME)
    if restarted:
        cluster.primary.stop()
        cluster.primary.start()
    app = cluster.primary.connect(NAME)  # closing it would wait for the log
    app.sql("SELECT * FROM t")
    cluster.primary.kill_actor("log_writer", signal.SIGSTOP)
    for number in range(103, 106):
        app.sql(f"INSERT INTO t VALUES({number}, 'unlogged')")
    cluster.primary.kill()
    app.kill()
    old, new = depose(cluster)
    new.start()
    write(new, 200, 202)
    old.start()
    wait_equal(old, new)
    (entry,) = listed(old)
    assert entry["last_common"] is not None
    found = shown(old, entry["id"])["transactions"]
    inserted = [
        table["inserted"] for each in found for table in each["tables"] if table["table"] == "t"
    ]
    assert inserted == [1, 1, 1, 3]
    copy = tmp_path / "lost.db"
    litemq("diverged", "export", "--config", old.config_path, entry["id"], "--database", copy)
    assert set(range(100, 106)) <= set(values(copy))


# --- without nodes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node that does not run."""
    path = tmp_path / "node.toml"
    path.write_text(
        f"""
[node]
name = "quiet"
data-dir = "{tmp_path}/data"
[mount]
path = "{tmp_path}/mount"
[stream]
listen = "tcp://127.0.0.1:7100"
[election]
primary = "tcp://127.0.0.1:7100"
"""
    )
    return path


def make_entry(config: Path, name: str) -> Path:
    """An entry that can't be read."""
    directory = config.parent / "data" / "diverged" / name
    directory.mkdir(parents=True)
    (directory / divergence.DESCRIPTION).write_text("{")
    return directory


def test_list_when_the_node_has_never_run_then_nothing_diverged(config: Path) -> None:
    """Nothing is made by looking."""
    done = litemq("diverged", "list", "--config", config)
    assert (done.code, done.out) == (0, "nothing diverged\n")
    assert litemq("diverged", "list", "--config", config, "--format", "json").out == "[]\n"
    assert not log_path(config.parent / "data").parent.exists()


@pytest.mark.parametrize("words", [["show"], ["export", "DIR"], ["drop"]], ids=" ".join)
def test_entry_when_there_is_none_of_that_id_then_one_line(words: list[str], config: Path) -> None:
    """And it names where to look. An ID is a name, never a path."""
    command, *rest = words
    make_entry(config, "a.db-e1-5")
    for name in ("nonsense", "../diverged/a.db-e1-5", "", "."):
        done = litemq("diverged", command, "--config", config, name, *rest)
        refused(done, 1, "litemq diverged list")


def test_entry_when_its_description_is_damaged_then_it_is_listed_and_can_be_dropped(
    config: Path,
) -> None:
    """Damage hides nothing."""
    directory = make_entry(config, "a.db-e1-5")
    done = litemq("diverged", "list", "--config", config)
    assert done.code == 0
    assert "a.db-e1-5: " in done.out
    assert "damaged" in done.out
    refused(litemq("diverged", "show", "--config", config, "a.db-e1-5"), 1, "damaged")
    refused(litemq("diverged", "drop", "--config", config, "a.db-e1-5"), 1, "--yes")
    assert directory.exists()
    assert litemq("diverged", "drop", "--config", config, "a.db-e1-5", "--yes").code == 0
    assert not list(directory.parent.iterdir())


@pytest.mark.parametrize(("answer", "there"), [("n", True), ("y", False)])
def test_drop_when_on_a_terminal_then_it_asks(config: Path, answer: str, there: bool) -> None:
    """Only a yes removes."""
    directory = make_entry(config, "a.db-e1-5")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        subprocess.run(
            [
                sys.executable,
                "-m",
                "litemq",
                "diverged",
                "drop",
                "--config",
                config,
                directory.name,
            ],
            stdin=theirs,
            capture_output=True,
            env=environment(),
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert directory.exists() == there


def test_export_when_no_target_is_named_then_usage(config: Path) -> None:
    """It says which there are."""
    refused(litemq("diverged", "export", "--config", config, "a.db-e1-5"), 2, "--database")
