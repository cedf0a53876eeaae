"""Damaged files: the node says so in one line, sets aside what it can't read, and lives on."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from commands import litemq, refused
from disks import SmallDisk, disk
from nodes import Cluster, Node
from tools import succeed
from waiting import eventually

__all__ = ["disk"]
pytestmark = pytest.mark.fuse

DAMAGED = "the log is damaged"
TORN = "cut a torn tail"
UNLOGGED = "had changed without its log"
#: what a replica and the publisher say on the way to what the primary has now
NOT_OURS = ("is not what the log says", "the primary does not have", "a transfer failed")
_names = (f"damage{number}.db" for number in itertools.count(1))


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster()
    for node in cluster.nodes:
        node.announce(DAMAGED, TORN, UNLOGGED, *NOT_OURS, "primary is silent")
    return cluster


@pytest.fixture
def name(shared: Cluster) -> str:
    """A database with a log of a hundred transactions, the same on both nodes."""
    name = next(_names)
    shared.start()
    with shared.primary.connect(name) as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x, y)")
        app.ask("repeat", "INSERT INTO t VALUES(1, hex(randomblob(200)))", 100)
    shared.agree(name)
    return name


def log_of(node: Node, name: str) -> Path:
    """The newest segment."""
    return sorted((node.data_dir / "databases" / name / "log").glob("*.seg"))[-1]


def flip(path: Path, offset: int) -> None:
    """One bit, so that whatever stands there becomes something else; from the end if negative."""
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


def goes_on(cluster: Cluster, name: str, rows: int) -> None:
    """What was there is there, a further row arrives, nothing differs."""
    cluster.agree(name)
    with cluster.primary.connect(name) as app:
        assert app.one("SELECT count(*) FROM t") == rows
        app.sql("INSERT INTO t VALUES(2, 'after')")
    cluster.agree(name)
    for node in cluster.nodes:
        with node.connect(name) as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
            assert reader.one("SELECT count(*) FROM t") == rows + 1


def set_aside(node: Node, name: str) -> list[Path]:
    return list((node.data_dir / "damaged").glob(f"{name}-*"))


def node_of(cluster: Cluster, role: str) -> Node:
    return cluster.primary if role == "primary" else cluster.replicas[0]


@pytest.mark.parametrize(
    ("role", "place"),
    [
        ("primary", "middle"),
        ("replica", "middle"),
        ("primary", "last record"),
        ("replica", "nothing left"),
        *[
            pytest.param(role, place, marks=pytest.mark.torture)
            for role, place in (
                ("replica", "last record"),
                ("primary", "last byte"),
                ("replica", "last byte"),
                ("primary", "cut"),
                ("replica", "cut"),
                ("primary", "nothing left"),
            )
        ],
    ],
)
def test_segment_when_it_is_damaged_at_rest_then_it_is_set_aside(
    shared: Cluster, name: str, role: str, place: str
) -> None:
    """Wherever it is: one line, a new log, the same rows; no actor ends."""
    node = node_of(shared, role)
    node.stop()
    segment = log_of(node, name)
    size = segment.stat().st_size
    if place == "cut":
        os.truncate(segment, size - 40)
    elif place == "nothing left":
        os.truncate(segment, 0)
    else:
        flip(segment, {"middle": size - size // 4, "last record": -60, "last byte": -1}[place])
    before = len(node.logged(DAMAGED, db=name))
    node.start()
    goes_on(shared, name, 100)
    told = len(node.logged(DAMAGED, db=name)) - before
    assert told == 1
    assert len(set_aside(node, name)) == 1
    assert {each.restarts for each in node.status().actors} == {0}  # type: ignore[union-attr]


@pytest.mark.parametrize("role", ["primary", "replica"])
@pytest.mark.parametrize(
    "what",
    [
        "pages.sum cut",
        pytest.param("pages.sum wrong", marks=pytest.mark.torture),
        pytest.param("pages.sum gone", marks=pytest.mark.torture),
        "state.json",
        "state.json gone",
    ],
)
def test_small_files_when_damaged_then_the_database_is_compared_and_goes_on(
    shared: Cluster, name: str, role: str, what: str
) -> None:
    """Page checksums are made anew; with the state the whole log is set aside, in one line."""
    node = node_of(shared, role)
    node.stop()
    path = node.data_dir / "databases" / name / what.split()[0]
    if what.endswith("cut"):
        os.truncate(path, 5)
    elif what.endswith("wrong"):
        flip(path, 9)
    elif what.endswith("gone"):
        path.unlink()
    else:
        path.write_bytes(b'{"version": 1, "page_size": "many"')
    before = len(node.logged(DAMAGED, db=name))
    node.start()
    goes_on(shared, name, 100)
    assert len(node.logged(DAMAGED, db=name)) - before == what.startswith("state.json")


def test_segment_when_it_is_damaged_under_a_running_primary_then_late_replicas_are_repaired(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Nobody has read the record since it was written; who needs it gets the pages instead."""
    cluster = new_cluster(replicas=0)
    cluster.primary.announce("damaged", "corrupt", "can't read")
    with cluster.primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x, y)")
        app.ask("repeat", "INSERT INTO t VALUES(1, hex(randomblob(200)))", 200)
    cluster.captured("a.db")
    segment = log_of(cluster.primary, "a.db")
    flip(segment, segment.stat().st_size // 2)
    late = cluster.add_replica()
    late.announce("dropped a damaged record")
    goes_on(cluster, "a.db", 200)
    assert len(late.logged("dropped a damaged record")) == 1


@pytest.mark.parametrize(
    ("damage", "companions"),
    [
        ("garbage", True),
        ("text", False),
        ("header", True),
        ("short", False),
        *[
            pytest.param(damage, companions, marks=pytest.mark.torture)
            for damage, companions in (
                ("garbage", False),
                ("text", True),
                ("header", False),
                ("short", True),
                ("empty", False),
                ("gone", True),
                ("empty", True),
                ("gone", False),
            )
        ],
    ],
)
def test_replica_when_its_database_file_is_corrupt_then_it_is_repaired(
    shared: Cluster, name: str, damage: str, companions: bool
) -> None:
    """Whatever stands there after the node was down, the primary's pages replace it."""
    (replica,) = shared.replicas
    replica.stop()
    path = replica.data_dir / "files" / name
    if companions:
        Path(f"{path}-wal").write_bytes(os.urandom(5000))
    if damage == "garbage":
        path.write_bytes(os.urandom(path.stat().st_size))
    elif damage == "text":
        path.write_text("this is no database\n" * 1000)
    elif damage == "header":
        with path.open("r+b") as file:
            file.write(bytes(100))
    elif damage == "short":
        os.truncate(path, 5000)
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        path.unlink()
    replica.start()
    goes_on(shared, name, 100)


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_databases_directory_when_it_is_lost_then_the_node_comes_back(
    shared: Cluster, name: str, role: str
) -> None:
    """All logs of a node are gone; the database files are there."""
    node = node_of(shared, role)
    node.stop()
    shutil.rmtree(node.data_dir / "databases")
    node.start()
    goes_on(shared, name, 100)


def test_corrupt_files_when_in_the_mount_then_each_is_told_once_and_the_others_go_on(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """Text, noise, a good beginning with noise behind, half a database; also after a restart."""
    primary = shared.primary
    primary.announce("can't read the database; not replicated")
    with closing(sqlite3.connect(tmp_path / "good")) as db:
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES(zeroblob(200000))")
        db.commit()
    good = (tmp_path / "good").read_bytes()
    contents = {
        f"text-{name}": b"this is a text\n" * 900,
        f"noise-{name}": os.urandom(20000),
        f"header-{name}": good[:16] + os.urandom(20000),
        f"half-{name}": good[: len(good) // 2],
    }
    for file, data in contents.items():
        (tmp_path / file).write_bytes(data)
        succeed("cp", tmp_path / file, primary.mount / file, directory=tmp_path)
    goes_on(shared, name, 100)
    for file in contents:
        assert primary.position(file) is None
        assert len(primary.logged("", db=file)) <= 1
    primary.stop()
    primary.start()
    goes_on(shared, name, 101)
    for file in contents:
        succeed("rm", file, directory=primary.mount)
        assert len(primary.logged("", db=file)) <= 3


def test_database_when_noise_is_written_over_it_then_it_is_told_and_replicas_keep_it(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """One warning; put back, it goes on."""
    primary = shared.primary
    primary.announce("overwritten by what is none")
    goes_on(shared, name, 100)
    good, noise = tmp_path / "good", tmp_path / "noise"
    noise.write_bytes(os.urandom(30000))
    succeed("cp", primary.mount / name, good, directory=tmp_path)
    succeed("cp", noise, primary.mount / name, directory=tmp_path)
    eventually(
        lambda: primary.logged("overwritten by what is none", db=name), what="the node says so"
    )
    for node in shared.replicas:
        with node.connect(name) as reader:
            assert reader.sql("PRAGMA integrity_check") == [("ok",)]
    succeed("cp", good, primary.mount / name, directory=tmp_path)
    goes_on(shared, name, 101)
    assert len(primary.logged("overwritten by what is none", db=name)) == 1


def test_database_when_its_file_is_emptied_then_replicas_have_none(
    shared: Cluster, name: str
) -> None:
    """To SQLite a file of no bytes is a database of no pages."""
    goes_on(shared, name, 100)
    succeed("truncate", "-s", "0", name, directory=shared.primary.mount)
    for node in shared.nodes:
        eventually(lambda node=node: node.position(name) is None, what=f"{node.name} has none")
    (replica,) = shared.replicas
    eventually(lambda: name not in replica.hands.ask("listing", str(replica.mount)))
    with shared.primary.connect(name) as app:
        app.script("CREATE TABLE anew(x)")
    shared.agree(name)


def test_corrupt_file_when_it_busies_nobody_then_the_log_writer_is_idle(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """Half a database may become a whole one, or never: waiting for it costs next to nothing."""
    primary = shared.primary
    half = f"half-{name}"
    source = primary.hands.ask("read", str(primary.mount / name))
    (tmp_path / half).write_bytes(source[: len(source) // 2])
    succeed("cp", tmp_path / half, primary.mount / half, directory=tmp_path)
    stat = Path(f"/proc/{primary.actor('log_writer').pid}/stat")

    def busy_s() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = busy_s()
    end = int(primary.log()[-1]["time"][17:19])
    eventually(
        lambda: (int(subprocess.check_output(["date", "+%S"])) - end) % 60 >= 3, what="3 s pass"
    )
    assert busy_s() - before < 0.6
    succeed("rm", half, directory=primary.mount)


def test_data_directory_when_it_is_read_only_then_up_says_so(
    disk: SmallDisk, new_cluster: Callable[..., Cluster]
) -> None:
    """One line that names file and key, exit code 2; with files of a former run and without."""
    cluster = new_cluster(replicas=0, start=False)
    node = cluster.primary
    for used in (False, True):
        node.data_dir = disk.path / "data"
        node.configure(node.address, {"node": {"data-dir": str(node.data_dir)}})
        if used:
            node.start()
            node.stop()
        subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
        try:
            done = litemq("up", "--config", node.config_path)
            refused(done, 2, str(node.config_path), "data-dir")
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk.path], check=True)
    node.start()
