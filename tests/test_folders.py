"""Folders in the mount: databases in them are replicated under their paths, all else stays local.

One cluster for all: a primary, a replica with a mount and one with plain files.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import litemq, refused
from nodes import Cluster, Node
from sql_process import SqlError
from tools import fail, run, succeed
from waiting import eventually

pytestmark = [pytest.mark.caches(False), pytest.mark.fuse]


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_shared_cluster()
    cluster.add_replica(fuse=False)
    return cluster


def gone(cluster: Cluster, name: str) -> None:
    """Wait until no node has a file of that name, in whatever folder."""
    for node in cluster.nodes:
        eventually(
            lambda node=node: not os.path.lexists(node.mount / name),
            what=f"{name} is gone from {node.name}",
        )


def make(node: Node, name: str, *, mode: str = "wal", rows: int = 3) -> None:
    with node.connect(name) as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
        for number in range(rows):
            app.sql("INSERT INTO t VALUES(?)", number)


def write(node: Node, name: str) -> bool:
    """Whether a program could write the database."""
    try:
        with node.connect(name) as app:
            app.sql("INSERT INTO t VALUES(7)")
    except SqlError:
        return False
    return True


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_database_when_it_is_in_a_folder_then_it_is_replicated_under_its_path(
    shared: Cluster, mode: str
) -> None:
    """With its position beside it; on replicas the folders come and go with the database."""
    primary, top = shared.primary, f"path-{mode}"
    succeed("mkdir", "-p", f"{top}/in ner", directory=primary.mount)
    for name in (f"{top}/in ner/100%.db", f"{top}/in ner/x.db", f"{top}/x.db"):
        make(primary, name, mode=mode)
        position = shared.agree(name)
        assert (primary.mount / f"{name}-pos").read_text().strip() == position.text
    assert not (primary.mount / f"{top}/.primary").exists()
    listed = succeed("find", top, directory=primary.mount).splitlines()
    assert not [name for name in listed if name.endswith("-pos")]
    succeed("rm", "-r", f"{top}/in ner", directory=primary.mount)
    gone(shared, f"{top}/in ner")
    assert shared.agree(f"{top}/x.db")
    succeed("rm", "-r", top, directory=primary.mount)
    gone(shared, top)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_folder_when_it_is_renamed_then_its_databases_have_new_names(
    shared: Cluster, mode: str
) -> None:
    """Also with a program at work, which goes on with what it has open."""
    primary, old, new = shared.primary, f"old-{mode}", f"new-{mode}"
    succeed("mkdir", "-p", f"{old}/deep", directory=primary.mount)
    make(primary, f"{old}/deep/a.db", mode=mode)
    make(primary, f"{old}/b.db", mode=mode)
    shared.agree(f"{old}/deep/a.db")
    if mode == "wal":  # with its WAL and its index
        with primary.connect(f"{old}/deep/a.db") as app:
            app.sql("INSERT INTO t VALUES(99)")
            succeed("mv", old, new, directory=primary.mount)
            with primary.connect(f"{new}/deep/a.db") as other:
                assert other.one("SELECT max(x) FROM t") == 99
                other.sql("INSERT INTO t VALUES(100)")
                shared.agree(f"{new}/deep/a.db")
    else:
        succeed("mv", old, new, directory=primary.mount)
    shared.agree(f"{new}/deep/a.db")
    shared.agree(f"{new}/b.db")
    gone(shared, old)
    with primary.connect(f"{new}/b.db") as app:
        app.sql("INSERT INTO t VALUES(5)")
    shared.agree(f"{new}/b.db")
    succeed("rm", "-r", new, directory=primary.mount)
    gone(shared, new)


def test_database_when_it_is_moved_between_folders_then_it_is_one_under_a_new_name(
    shared: Cluster,
) -> None:
    """Into a folder, across, out of it, and over another one."""
    primary = shared.primary
    succeed("mkdir", "here", "there", directory=primary.mount)
    make(primary, "moved.db", mode="delete")
    for before, after in (
        ("moved.db", "here/moved.db"),
        ("here/moved.db", "there/moved.db"),
        ("there/moved.db", "again.db"),
    ):
        succeed("mv", before, after, directory=primary.mount)
        shared.agree(after)
        gone(shared, before)
    make(primary, "here/over.db", mode="delete", rows=50)
    succeed("mv", "again.db", "here/over.db", directory=primary.mount)
    shared.agree("here/over.db")
    gone(shared, "again.db")
    succeed("rm", "-r", "here", "there", directory=primary.mount)
    gone(shared, "here")


def test_names_when_they_are_alike_but_for_their_folders_then_none_is_mixed_up(
    shared: Cluster,
) -> None:
    """What stands for "/" in the data directory may stand in a name, too."""
    primary = shared.primary
    succeed("mkdir", "-p", "al", "al%2Fx", directory=primary.mount)
    names = ["al/x", "al%2Fx/x", "al%252Fx", "al%x", "al-x"]
    for rows, name in enumerate(names, 1):
        make(primary, name, rows=rows, mode="delete")
    for rows, name in enumerate(names, 1):
        shared.agree(name)
        for node in shared.nodes:
            with node.connect(name) as reader:
                assert reader.one("SELECT count(*) FROM t") == rows
    succeed("rm", "-r", "al", "al%2Fx", "al%252Fx", "al%x", "al-x", directory=primary.mount)
    gone(shared, "al%2Fx")


def test_other_files_when_they_are_in_folders_then_they_work_and_stay_local(
    shared: Cluster, tmp_path: Path
) -> None:
    """As an application's data directory has them; copied in and out it is the same."""
    primary, mount = shared.primary, shared.primary.mount
    source = tmp_path / "source"
    (source / "files/deep").mkdir(parents=True)
    (source / "files/deep/note.txt").write_text("note")
    (source / "files/empty").mkdir()
    (source / "files/link").symlink_to("deep/note.txt")
    (source / "files/up").symlink_to("../files/deep")
    succeed("cp", "-a", source, mount / "app", directory=tmp_path)
    make(primary, "app/data.db")
    shared.agree("app/data.db")
    assert (mount / "app/files/link").read_text() == "note"
    assert (mount / "app/files/up/note.txt").read_text() == "note"
    assert os.readlink(mount / "app/files/link") == "deep/note.txt"
    succeed("rsync", "-a", "--delete", "--exclude=data.db*", f"{source}/", mount / "app",
            directory=tmp_path)  # fmt: skip
    succeed("tar", "-C", mount, "-cf", tmp_path / "all.tar", "app", directory=tmp_path)
    succeed("cp", "-a", mount / "app", tmp_path / "out", directory=tmp_path)
    succeed("diff", "-r", "--exclude=data.db*", source, tmp_path / "out", directory=tmp_path)
    for replica in shared.replicas:
        assert [each.name for each in (replica.mount / "app").iterdir()
                if not each.name.startswith("data.db")] == []  # fmt: skip
    assert not [line for line in primary.log() if "note.txt" in str(line)]
    succeed("rm", "-r", "app", directory=mount)
    gone(shared, "app")


def test_links_when_they_lead_into_the_mount_by_an_absolute_path_then_they_work(
    shared: Cluster,
) -> None:
    """They are read where they were made, as SQLite does: a database has one name."""
    primary, mount = shared.primary, shared.primary.mount
    succeed("mkdir", "links", directory=mount)
    make(primary, "links/real.db")
    succeed("ln", "-s", mount / "links/real.db", "links/alias.db", directory=mount)
    with primary.connect("links/alias.db") as app:
        app.script("CREATE TABLE by_alias(x)")
    shared.agree("links/real.db")
    assert os.readlink(mount / "links/alias.db") == str(mount / "links/real.db")
    succeed("rm", "-r", "links", directory=mount)
    gone(shared, "links")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_link_when_it_takes_the_name_of_a_database_then_replicas_drop_that(
    shared: Cluster, mode: str
) -> None:
    """The link stays on the primary; where it leads is a database of its own."""
    primary, mount = shared.primary, shared.primary.mount
    succeed("mkdir", "over", directory=mount)
    make(primary, "over/old.db", mode=mode, rows=5)
    make(primary, "over/other.db", mode=mode)
    for name in ("over/old.db", "over/other.db"):
        shared.agree(name)
    succeed("ln", "-sf", "other.db", "over/old.db", directory=mount)
    for node in shared.replicas:
        eventually(
            lambda node=node: not (node.mount / "over/old.db").exists(), what="it is dropped there"
        )
    assert write(primary, "over/old.db")
    shared.agree("over/other.db")
    succeed("rm", "over/old.db", directory=mount)
    make(primary, "over/old.db", mode=mode)
    shared.agree("over/old.db")
    succeed("rm", "-r", "over", directory=mount)
    gone(shared, "over")


def test_links_when_they_stand_in_the_way_at_a_start_then_no_other_database_is_touched(
    new_cluster: Callable[..., Cluster],
) -> None:
    """On the primary a link is no database; on a replica it makes way, with a warning."""
    cluster = new_cluster()
    cluster.add_replica(fuse=False)
    for name in ("old.db", "other.db"):
        make(cluster.primary, name)
        cluster.agree(name)
    for node in cluster.nodes:
        node.stop()
    for node in cluster.nodes:
        node.announce("a symbolic link was in the way", "is not what the log says; repairing it")
        files = node.data_dir / "files" if node.fuse else node.mount
        for suffix in ("", "-wal", "-shm"):
            (files / f"old.db{suffix}").unlink(missing_ok=True)
        (files / "old.db").symlink_to("other.db")
        (files / "new.db").symlink_to("other.db")
    cluster.primary.announce("the database file is gone; dropped")
    cluster.start()
    for node in cluster.replicas:
        eventually(
            lambda node=node: not (node.mount / "old.db").exists(), what="it is dropped there"
        )
    assert write(cluster.primary, "old.db")
    cluster.agree("other.db")
    succeed("rm", "new.db", directory=cluster.primary.mount)
    make(cluster.primary, "new.db", rows=9)
    cluster.agree("new.db")
    cluster.agree("other.db")
    assert os.path.islink(cluster.primary.mount / "old.db")
    for node in cluster.replicas:
        assert node.logged("a symbolic link was in the way", db="new.db", target="other.db")


def test_sockets_when_a_service_makes_one_in_the_mount_then_programs_reach_it(
    shared: Cluster,
) -> None:
    """It stays on its node; what is left of it is deleted as on a disk."""
    mount = shared.primary.mount
    succeed("mkdir", "sockets", directory=mount)
    path = mount / "sockets/s"
    with socket.socket(socket.AF_UNIX) as service, socket.socket(socket.AF_UNIX) as client:
        service.bind(str(path))
        service.listen()
        assert path.is_socket()
        client.connect(str(path))
    succeed("mv", "s", "t", directory=mount / "sockets")
    assert [each.name for each in (mount / "sockets").iterdir()] == ["t"]
    assert not (shared.replicas[0].mount / "sockets").exists()
    os.mknod(mount / "sockets/file", 0o640)
    assert (mount / "sockets/file").stat().st_mode == stat.S_IFREG | 0o640
    (mount / "sockets/file").write_text("content")
    reason = fail("mkfifo", "fifo", directory=mount / "sockets")
    assert "Operation not permitted" in reason
    succeed("rm", "-r", "sockets", directory=mount)


def test_links_when_they_lead_out_of_the_mount_then_they_are_refused(shared: Cluster) -> None:
    """So are hard links; nothing is left behind."""
    mount = shared.primary.mount
    succeed("mkdir", "links", directory=mount)
    beside = f"{mount}-too/file"
    for target in ("/etc/passwd", "../../outside", "../..", "a/../../..", beside, f"{mount}/../x"):
        reason = fail("ln", "-s", target, "links/bad", directory=mount)
        assert "Operation not permitted" in reason
        assert not os.path.lexists(mount / "links/bad")
    (mount / "links/file").write_text("x")
    assert "Operation not permitted" in fail("ln", "links/file", "links/hard", directory=mount)
    succeed("rm", "-r", "links", directory=mount)


def test_folders_when_calls_make_no_sense_then_they_fail_as_on_a_disk(shared: Cluster) -> None:
    """With the errno of a disk."""
    mount = shared.primary.mount
    succeed("mkdir", "-p", "a/b", "c", directory=mount)
    (mount / "c/file").write_text("x")
    assert "File exists" in fail("mkdir", "a", directory=mount)
    assert "not empty" in fail("rmdir", "a", directory=mount)
    assert "Not a directory" in fail("rmdir", "c/file", directory=mount)
    with pytest.raises(OSError, match="not empty"):
        os.rename(mount / "a", mount / "c")
    with pytest.raises(OSError, match="Invalid argument"):
        os.rename(mount / "a", mount / "a/b/d")
    with pytest.raises(NotADirectoryError):
        os.rename(mount / "a", mount / "c/file")
    with pytest.raises(IsADirectoryError):
        os.rename(mount / "c/file", mount / "a")
    with pytest.raises(PermissionError):
        os.rename(mount / "c/file", mount / ".primary")
    os.rename(mount / "a", mount / "a2")
    (mount / "empty").mkdir()
    os.rename(mount / "a2", mount / "empty")
    assert sorted(os.listdir(mount / "empty")) == ["b"]
    fd = os.open(mount / "empty", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    succeed("rm", "-r", "empty", "c", directory=mount)


def test_replica_when_a_program_changes_folders_then_it_is_refused(shared: Cluster) -> None:
    """They are those of the primary."""
    succeed("mkdir", "held", directory=shared.primary.mount)
    make(shared.primary, "held/x.db")
    shared.agree("held/x.db")
    replica = shared.replicas[0].mount
    for words in (("mkdir", "mine"), ("rmdir", "held"), ("mv", "held", "mine"),
                  ("ln", "-s", "held", "mine")):  # fmt: skip
        assert "Read-only file system" in fail(*words, directory=replica)
    succeed("rm", "-r", "held", directory=shared.primary.mount)
    gone(shared, "held")


def test_node_when_it_or_its_actors_die_then_folders_are_as_before(shared: Cluster) -> None:
    """Databases in them are found by the scan, inode numbers are the same."""
    primary, mount = shared.primary, shared.primary.mount
    for node in shared.nodes:
        node.announce("actor ended", "changed without its log")
    succeed("mkdir", "-p", "kept/deep", "kept/empty", directory=mount)
    (mount / "kept/note").write_text("x")
    make(primary, "kept/deep/x.db")
    shared.agree("kept/deep/x.db")
    names = ("kept", "kept/note", "kept/deep/x.db")
    inodes = [os.stat(mount / name).st_ino for name in names]
    for actor in ("fuse_capture", "log_writer"):
        primary.kill_actor(actor)
        eventually(lambda: write(primary, "kept/deep/x.db"), what="the mount is back")
        shared.agree("kept/deep/x.db")
    for replica in shared.replicas:
        replica.kill_actor("replica_applier")
    primary.stop()
    folder = primary.data_dir / "files/kept/deep"
    run("sqlite3", "x.db", "INSERT INTO t VALUES(8)", directory=folder)
    primary.start()
    shared.agree("kept/deep/x.db")
    assert [os.stat(mount / name).st_ino for name in names] == inodes
    assert os.path.isdir(mount / "kept/empty")
    succeed("rm", "-r", "kept", directory=mount)
    gone(shared, "kept")


def test_commands_when_a_database_is_in_a_folder_then_they_know_it_by_its_path(
    shared: Cluster, tmp_path: Path
) -> None:
    """What leads out of the mount is no name."""
    primary = shared.primary
    source = tmp_path / "source.db"
    succeed("sqlite3", source, "CREATE TABLE t(x); INSERT INTO t VALUES(1)", directory=tmp_path)
    config = ("--config", primary.config_path)
    assert litemq("import", *config, "cli/in/x.db", source).code == 0
    shared.agree("cli/in/x.db")
    assert "cli/in/x.db" in litemq("status", *config).out
    assert litemq("export", *config, "cli/in/x.db", tmp_path / "out.db").code == 0
    found = succeed("sqlite3", tmp_path / "out.db", "SELECT x FROM t", directory=tmp_path)
    assert found.strip() == "1"
    assert litemq("verify", *config, "cli/in/x.db").code == 0
    for name in ("../x.db", "/x.db", "cli/../../x.db", "cli/"):
        refused(litemq("import", *config, name, source), 1, "can't be the name")
        refused(litemq("export", *config, name, tmp_path / "o.db"), 1, "can't be the name")
    succeed("rm", "-r", "cli", directory=primary.mount)
    gone(shared, "cli")
