"""Files are compared with their logs while a node works: what differs is found by itself."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable

import pytest
from commands import litemq
from nodes import Cluster, Node
from waiting import eventually

pytestmark = pytest.mark.fuse

REPAIRED = "the database is not what the log says; repairing it"
LOGGED = "the database had changed without its log"
_names = (f"scrub{number}.db" for number in itertools.count(1))


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster(sections={"verify": {"every": "1s"}})
    cluster.primary.announce(LOGGED)
    cluster.replicas[0].announce(REPAIRED)
    return cluster


@pytest.fixture(params=["wal", "delete"])
def name(shared: Cluster, request: pytest.FixtureRequest) -> str:
    """A database of some hundred pages, on both nodes."""
    name = next(_names)
    shared.start()
    with shared.primary.connect(name) as app:
        app.script(f"PRAGMA journal_mode={request.param}", "CREATE TABLE t(x)")
        app.ask("repeat", "INSERT INTO t VALUES(hex(randomblob(1000)))", 200)
        if request.param == "wal":
            app.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    shared.agree(name)
    return name


def rot(node: Node, name: str, page: int) -> None:
    """One bit of the file, as a disk would lose it: its size and time stay as they were."""
    path = node.data_dir / "files" / name
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(4096 * page - 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def page_of(node: Node, name: str, page: int) -> bytes:
    with (node.data_dir / "files" / name).open("rb") as file:
        file.seek(4096 * (page - 1))
        return file.read(4096)


def verified_ms(node: Node, name: str) -> int:
    done = litemq("status", "--config", node.config_path, "--format", "json")
    (found,) = [each for each in json.loads(done.out)["databases"] if each["name"] == name]
    return int(found["verified_ms"])


def checkpointed(node: Node, name: str) -> bool:
    wal = node.data_dir / "files" / f"{name}-wal"
    return not wal.exists() or not wal.stat().st_size


def test_status_when_databases_have_been_compared_then_it_says_when(
    shared: Cluster, name: str
) -> None:
    """On both nodes, again and again, for programs and for people."""
    for node in shared.nodes:
        eventually(lambda node=node: verified_ms(node, name), what=f"{node.name} has verified")
        first = verified_ms(node, name)
        eventually(lambda node=node, first=first: verified_ms(node, name) > first, what="again")
        text = litemq("status", "--config", node.config_path).out
        (line,) = [line for line in text.splitlines() if line.startswith(name)]
        assert line.split()[-2].startswith("20")


def test_replica_when_its_disk_has_lost_a_bit_then_it_is_repaired(
    shared: Cluster, name: str
) -> None:
    """Whatever the kernel remembers of the file, and though nothing tells of a change."""
    (replica,) = shared.replicas
    with shared.primary.connect(name) as app:  # what is still in a WAL is read from there
        app.script("PRAGMA journal_mode=delete", "INSERT INTO t VALUES('one more')")
    shared.agree(name)
    eventually(lambda: checkpointed(replica, name), what="the file has it all")
    good = page_of(replica, name, 20)
    rot(replica, name, 20)
    assert page_of(replica, name, 20) != good
    eventually(lambda: page_of(replica, name, 20) == good, what="the page is right again")
    assert replica.logged(REPAIRED, db=name)
    shared.agree(name)
    with replica.connect(name) as reader:
        assert reader.sql("PRAGMA integrity_check") == [("ok",)]


def test_primary_when_its_file_has_changed_in_silence_then_replicas_have_the_same(
    shared: Cluster, name: str
) -> None:
    """The file is what programs see; it is logged, with a warning."""
    primary, (replica,) = shared.primary, shared.replicas
    eventually(lambda: checkpointed(primary, name), what="the file has it all")
    head = primary.position(name)
    rot(primary, name, 20)
    eventually(lambda: primary.position(name) != head, what="the change is logged")
    shared.agree(name)
    assert primary.logged(LOGGED, db=name)
    eventually(
        lambda: page_of(replica, name, 20) == page_of(primary, name, 20) or
        not checkpointed(replica, name), what="the replica has it",
    )  # fmt: skip


def test_verify_when_the_checksum_of_a_page_is_not_known_then_it_does_not_pass(
    shared: Cluster, name: str
) -> None:
    """Nothing is taken for right of which nothing is known."""
    (replica,) = shared.replicas
    replica.stop()
    shutil.rmtree(replica.data_dir / "databases" / name)  # no record tells of any page then
    replica.start()
    shared.agree(name)
    assert litemq("verify", "--config", replica.config_path, name).code == 0
    with (replica.data_dir / "databases" / name / "pages.sum").open("r+b") as file:
        file.seek(8 * 19)
        known = file.read(8)
        file.seek(8 * 19)
        file.write(bytes(8))
        file.flush()
        found = litemq("verify", "--config", replica.config_path, name)
        file.seek(8 * 19)
        file.write(known)
    assert found.code != 0
    assert "20" in found.out
    assert litemq("verify", "--config", replica.config_path, name).code == 0


def test_scrub_when_databases_are_dropped_meanwhile_then_it_says_nothing(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Between two parts of the one that it compares; an unannounced warning fails the test."""
    cluster = new_cluster(sections={"verify": {"every": "1s"}})
    primary, (replica,) = cluster.primary, cluster.replicas
    # each takes half a second: one is always due
    names = [f"dropped{number}.db" for number in range(3)]
    for name in names:
        with primary.connect(name) as app:
            app.sql("CREATE TABLE t AS SELECT zeroblob(10000000)")
        cluster.agree(name)
    for name in names:
        eventually(lambda name=name: verified_ms(replica, name), what=f"{name} is compared")
    for name in names:
        (primary.mount / name).unlink()
    files = replica.data_dir / "files"
    eventually(
        lambda: not any((files / name).exists() for name in names), what="they are dropped there"
    )
    with primary.connect("last.db") as app:
        app.sql("CREATE TABLE t(x)")
    eventually(lambda: verified_ms(replica, "last.db"), what="another one is compared")
