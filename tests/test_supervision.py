"""The supervisor: actors that die or hang come back, the node ends cleanly, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import litemq, refused
from leftovers import mounts_below, processes_below
from nodes import Cluster, Node
from waiting import eventually

from litemq.fs.mount import find_mount

pytestmark = pytest.mark.fuse

DIED = (
    "actor ended",
    "can't apply",
    "can't read the WAL",
    "torn tail",
    "primary is silent",
    "housekeeping failed",  # the mount died under a comparison
)
HUNG = ("actor gives no sign of life",)
PRIMARY = ("fuse_capture", "log_writer", "stream_publisher")
REPLICA = ("fuse_capture", "replica_applier")

#: commits rows until it is refused; a number on stdout for every acknowledged one
WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
number = 0
try:
    while True:
        number += 1
        db.execute("INSERT INTO t VALUES(?)", (number,))
        print(number, flush=True)
except sqlite3.Error:
    pass
"""
#: an application that ends by its own lights
OBEDIENT = """
import pathlib, signal, sys
def stop(number, frame):
    with open(sys.argv[1], "a") as out:
        out.write(f"{number}\\n")
    if number != signal.SIGHUP:
        sys.exit(7)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, stop)
pathlib.Path(sys.argv[1]).write_text("started\\n")
while True:
    signal.pause()
"""


def table(cluster: Cluster, mode: str = "wal") -> None:
    with cluster.primary.connect("a.db") as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)")
    cluster.agree("a.db")


def returned(node: Node, actor: str, old: int) -> None:
    """Another process does its work, and the node is ready."""
    eventually(lambda: node.actor(actor).pid != old, what=f"{actor} of {node.name} is back")
    node.wait_ready()


def insert(cluster: Cluster) -> None:
    """A row by a new connection gets to every node."""
    with cluster.primary.connect("a.db") as app:
        app.sql("INSERT INTO t VALUES(1)")
    cluster.agree("a.db")


def actors(cluster: Cluster) -> list[tuple[Node, str]]:
    pairs = [(cluster.primary, name) for name in PRIMARY]
    return pairs + [(cluster.replicas[0], name) for name in REPLICA]


def test_actor_when_killed_then_it_comes_back_and_the_node_works(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Each of them, one after the other; status counts it, the log tells it once."""
    cluster = new_cluster(sections={"supervisor": {"crash-limit": 20}})
    for node in cluster.nodes:
        node.announce(*DIED)
    table(cluster)
    for node, name in actors(cluster):
        old = node.kill_actor(name)
        returned(node, name, old)
        insert(cluster)
        assert node.actor(name).restarts == 1
        assert len(node.logged("actor ended", ended=name)) == 1


def test_actor_when_it_hangs_then_it_is_replaced_and_the_node_works(
    new_cluster: Callable[..., Cluster],
) -> None:
    """SIGSTOP: nothing but its silence tells. What waits for it goes on when another is there."""
    cluster = new_cluster(sections={"supervisor": {"hung-after": "1s", "crash-limit": 20}})
    for node in cluster.nodes:
        node.announce(*DIED, *HUNG)
    table(cluster)
    for node, name in actors(cluster):
        before = len(node.logged(HUNG[0], hung=name))
        old = node.kill_actor(name, signal.SIGSTOP)
        returned(node, name, old)
        insert(cluster)
        assert len(node.logged(HUNG[0], hung=name)) == before + 1


def test_node_when_it_is_paused_as_a_whole_then_its_actors_are_kept(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A container that is frozen, a machine that is moved: nobody was there to hear, so nobody was
    silent, and programs go on with the files they have open."""
    cluster = new_cluster(replicas=0, sections={"supervisor": {"hung-after": "2s"}})
    node = cluster.primary
    table(cluster)
    before = [node.actor(name).pid for name in PRIMARY]
    with node.connect("a.db") as app:
        app.sql("INSERT INTO t VALUES(1)")
        node.signal_all(signal.SIGSTOP)
        over_s = time.monotonic() + 5.0
        eventually(lambda: time.monotonic() > over_s, what="it was paused for longer")
        # all at once for who is paused; here the watcher comes last, or this process, when it is
        # starved, would keep the others stopped under its eyes
        for pid in sorted(processes_below(node.directory), key=lambda pid: pid == node.pid):
            os.kill(pid, signal.SIGCONT)
        app.sql("INSERT INTO t VALUES(2)")
    assert [node.actor(name).pid for name in PRIMARY] == before


@pytest.mark.parametrize("actor", ["log_writer", "fuse_capture"])
def test_actor_when_it_keeps_crashing_then_the_node_ends_with_one_line(
    new_cluster: Callable[..., Cluster], actor: str
) -> None:
    """Exit code 1, one error line for people, one in the log; no process, no mount."""
    cluster = new_cluster(
        replicas=0, sections={"supervisor": {"crash-limit": 2, "crash-window": "60s"}}
    )
    node = cluster.primary
    node.announce("actor ended", "node ends")
    table(cluster)
    for _ in range(2):
        returned(node, actor, node.kill_actor(actor))
    node.kill_actor(actor)
    assert node.wait() == 1
    lines = [line for line in node.stderr().splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"litemq: {actor} keeps crashing")
    assert len(node.logged("node ends", level="error")) == 1
    assert processes_below(node.directory) == []
    assert mounts_below(node.directory) == []
    node.start()
    insert(cluster)


def test_nursery_when_killed_then_the_node_ends_with_one_line(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Without it no actor can be started; they all die with it."""
    cluster = new_cluster(replicas=0)
    node = cluster.primary
    node.announce("node ends")
    (nursery,) = [
        pid
        for pid in processes_below(node.directory)
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"litemq: nursery")
    ]
    os.kill(nursery, signal.SIGKILL)
    assert node.wait() == 1
    lines = [line for line in node.stderr().splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    eventually(lambda: processes_below(node.directory) == [], what="the actors are gone")
    assert mounts_below(node.directory) == []


def test_supervisor_when_killed_then_nothing_is_left_and_nobody_writes_under_the_mount(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Not even root; the next start takes the dead mount away and has everything."""
    cluster = new_cluster()
    for node in cluster.nodes:
        node.announce("primary is silent", "had changed without its log")
    table(cluster)
    insert(cluster)
    for node in cluster.nodes:
        node.kill()
        assert processes_below(node.directory) == []
        for name in ("new.db", "a.db"):
            with pytest.raises(OSError, match=r"."):
                (node.mount / name).write_bytes(b"lost")
    for node in cluster.nodes:
        node.start(ready=False)
    for node in cluster.nodes:
        node.wait_ready()
    insert(cluster)
    with cluster.primary.connect("a.db") as app:
        assert app.one("SELECT count(*) FROM t") == 2


def test_mount_when_its_actor_is_away_then_nothing_can_be_created_there(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Between two lives of the FUSE actor, while the rest of the node runs."""
    cluster = new_cluster(replicas=0)
    node = cluster.primary
    node.announce(*DIED)
    table(cluster)
    pid = node.actor("fuse_capture").pid
    node.send_signal(signal.SIGSTOP)  # it will not start another
    try:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not _alive(pid), what="the actor is gone")
        with pytest.raises(OSError, match=r"."):
            (node.mount / "new.db").write_bytes(b"lost")
        assert find_mount(str(node.mount)) is not None
    finally:
        node.send_signal(signal.SIGCONT)
    returned(node, "fuse_capture", pid)
    insert(cluster)
    assert "new.db" not in node.hands.ask("listing", str(node.mount))


def _alive(pid: int) -> bool:
    """Whether it is neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_when_listed_then_their_titles_say_who_is_who(
    new_cluster: Callable[..., Cluster],
) -> None:
    """`litemq: ACTOR NODE` for everyone; and every log line says who wrote it."""
    cluster = new_cluster()
    table(cluster)
    insert(cluster)
    for node in cluster.nodes:
        status = node.status()
        assert status is not None
        pids = {actor.pid: actor.name for actor in status.actors}
        for pid, name in pids.items():
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            assert title == f"litemq: {name} {node.name}"
        for line in node.log():
            assert line["node"] == node.name
            assert pids[line["pid"]] == line["actor"], line
        assert {line["actor"] for line in node.log()} == set(pids.values())
        json_lines = [json.loads(line) for line in node.stderr().splitlines()]
        assert len(json_lines) == len(node.log())


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (signal.SIGTERM, "wal"),
        (signal.SIGINT, "delete"),
        pytest.param(signal.SIGINT, "wal", marks=pytest.mark.torture),
        pytest.param(signal.SIGTERM, "delete", marks=pytest.mark.torture),
    ],
)
def test_node_when_stopped_under_load_then_every_acknowledged_row_is_on_the_replica(
    new_cluster: Callable[..., Cluster], mode: str, number: signal.Signals
) -> None:
    """Exit code 0 means: what was committed is in the log and on the connected replicas."""
    cluster = new_cluster()
    cluster.replicas[0].announce("primary is silent")
    table(cluster, mode)
    acks = cluster.directory / "acks"
    with acks.open("wb") as out:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(cluster.primary.mount / "a.db")], stdout=out
        )
    try:
        eventually(lambda: acks.stat().st_size > 1000, what="the writer writes")
        cluster.primary._let_go()
        cluster.primary.send_signal(number)
        assert cluster.primary.wait() == 0
    finally:
        writer.kill()
        writer.wait()
    last = int(acks.read_text().split("\n")[-2])
    with cluster.replicas[0].connect("a.db") as reader:
        found = reader.one("SELECT max(x) FROM t")
    assert found in (last, last + 1)  # the very last may not have been told
    assert mounts_below(cluster.primary.directory) == []
    cluster.primary.start()
    with cluster.primary.connect("a.db") as app:
        assert app.one("SELECT max(x) FROM t") == found
        assert app.sql("PRAGMA integrity_check") == [("ok",)]
    insert(cluster)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_when_the_node_is_signalled_then_it_gets_the_signal_and_gives_the_code(
    new_cluster: Callable[..., Cluster], number: signal.Signals
) -> None:
    """SIGHUP reaches it too; its exit code is the node's, and its commits are kept."""
    cluster = new_cluster(replicas=0, start=False)
    node = cluster.primary
    told = node.directory / "told"
    node.start(ready=False, command=[sys.executable, "-c", OBEDIENT, str(told)])
    eventually(lambda: told.exists() and told.read_text(), until="started\n")
    status = node.status()
    assert status is not None
    assert status.ready
    node.send_signal(signal.SIGHUP)
    eventually(lambda: told.read_text().split()[1:], until=[str(int(signal.SIGHUP))])
    node.send_signal(number)
    assert node.wait() == 7
    assert told.read_text().split()[2:] == [str(int(number))]


def test_command_when_it_is_killed_or_missing_then_the_exit_code_tells(
    new_cluster: Callable[..., Cluster],
) -> None:
    """128 + 9 as in a shell; a program that is not there is one line."""
    cluster = new_cluster(replicas=0, start=False)
    node = cluster.primary
    node.announce("node ends")
    suicide = "import os; os.kill(os.getpid(), 9)"
    node.start(ready=False, command=[sys.executable, "-c", suicide])
    assert node.wait() == 128 + 9
    node.start(ready=False, command=["/no/such/program"])
    assert node.wait() == 1
    lines = [line for line in node.stderr().splitlines() if not line.startswith("{")]
    assert lines == ["litemq: can't run /no/such/program: No such file or directory"]


def test_data_directory_when_another_node_has_it_then_up_is_refused(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Other name, other mount, other ports, same data: one line, exit code 2, no harm."""
    cluster = new_cluster(replicas=0)
    other = cluster.add_replica(start=False)
    cluster.replicas.clear()
    other.configure(other.address, {"node": {"data-dir": str(cluster.primary.data_dir)}})
    done = litemq("up", "--config", other.config_path)
    refused(done, 2, str(other.config_path), "data-dir", "in use by a running node")
    assert not other.mount.exists()
    table(cluster)
    insert(cluster)


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_port_when_it_is_in_use_then_up_is_refused_and_nothing_is_created(
    new_cluster: Callable[..., Cluster], offset: int
) -> None:
    """Any of the three; exit code 2."""
    cluster = new_cluster(replicas=0, start=False)
    node = cluster.primary
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.port + offset))
        taken.listen()
        done = litemq("up", "--config", node.config_path)
    refused(done, 2, str(node.config_path), "listen", str(node.port + offset))
    assert not node.data_dir.exists()
    assert not node.mount.exists()


def mount_again(node: Node) -> None:
    """Kill its mount, and wait for the next one."""
    mounts = len(node.logged("^mounted$"))
    node.kill_actor("fuse_capture")
    eventually(lambda: len(node.logged("^mounted$")) > mounts, what="it is mounted again")
    node.wait_ready()


@pytest.mark.caches
def test_connection_when_its_mount_has_died_then_its_end_leaves_the_next_ones_wal_alone(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It takes itself for the last one, and would delete what others use by its name.

    The last one that is really there does so; and nobody keeps a WAL that none uses from `rm`.
    """
    cluster = new_cluster()
    primary = cluster.primary
    primary.announce(*DIED)
    files = primary.data_dir / "files"
    with primary.connect("a.db") as app:
        app.script("PRAGMA journal_mode=wal", "CREATE TABLE t(x)", "INSERT INTO t VALUES(0)")
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    with primary.connect("a.db") as idle:
        assert idle.one("SELECT count(*) FROM t") == 1
        mount_again(primary)
        with primary.connect("a.db") as app:
            for number in range(1, 21):
                app.sql("INSERT INTO t VALUES(?)", number)
            idle.close()
            assert (files / "a.db-wal").exists()
            assert (files / "a.db-shm").exists()
            with primary.connect("a.db") as other:
                assert other.one("SELECT count(*) FROM t") == 21
                other.sql("INSERT INTO t VALUES(21)")
            assert app.one("SELECT count(*) FROM t") == 22
    assert not (files / "a.db-wal").exists()
    cluster.agree("a.db")
    with primary.connect("a.db") as idle:
        assert idle.one("SELECT count(*) FROM t") == 22
        mount_again(primary)
        dying = primary.connect("a.db")
        dying.sql("INSERT INTO t VALUES(22)")
        dying.kill()  # what it has committed is in the WAL alone, and nobody has that open
        idle.close()
        with primary.connect("a.db") as other:
            assert other.one("SELECT count(*) FROM t") == 23
    cluster.agree("a.db")
    (files / "a.db-wal").touch()
    primary.hands.ask("unlink", str(primary.mount / "a.db-wal"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take a process its CPU")
def test_actor_when_others_leave_it_no_cpu_then_it_is_starved_and_kept(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It is ready to run and does not: no number of the kernel's shows such a wait before it ends.
    The same actor is found when it hangs."""
    cluster = new_cluster(replicas=0, sections={"supervisor": {"hung-after": "1s"}})
    node = cluster.primary
    node.announce(*HUNG, *DIED)
    table(cluster)
    before = node.actor("log_writer").pid
    cpus = os.sched_getaffinity(0)
    one = {max(cpus)}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        os.sched_setaffinity(hog.pid, one)
        os.setpriority(os.PRIO_PROCESS, hog.pid, -20)
        os.sched_setscheduler(before, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(before, one)
        over_s = time.monotonic() + 5.0
        eventually(lambda: time.monotonic() > over_s, what="it was starved for longer")
        hog.kill()
    os.sched_setscheduler(before, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(before, cpus)
    insert(cluster)
    assert node.actor("log_writer").pid == before
    assert not node.logged(HUNG[0], hung="log_writer")
    returned(node, "log_writer", node.kill_actor("log_writer", signal.SIGSTOP))
    insert(cluster)
    assert node.logged(HUNG[0], hung="log_writer")
