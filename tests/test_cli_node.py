"""Commands on nodes that run: status, tail, export, import, verify, and `up` with a command."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from capabilities import require_program
from commands import environment, litemq, refused
from nodes import Cluster, Node
from waiting import eventually

pytestmark = pytest.mark.fuse

_names = (f"cli{number}.db" for number in itertools.count(1))


@pytest.fixture(scope="module")
def shared(new_shared_cluster: Callable[..., Cluster]) -> Cluster:
    """A primary, a replica with a mount and one with plain files."""
    return new_shared_cluster(replicas=1, plain=1)


@pytest.fixture
def name() -> str:
    """A database name of its own for each test."""
    return next(_names)


def fill(node: Node, name: str, *, mode: str = "wal", rows: int = 200) -> None:
    with node.connect(name) as app:
        app.sql(f"PRAGMA journal_mode={mode}")
        app.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        app.sql("BEGIN")
        for _ in range(rows):
            app.sql("INSERT INTO t(v) VALUES(hex(randomblob(200)))")
        app.sql("COMMIT")


def rows_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = database.execute("SELECT count(*) FROM t").fetchone()
        return int(count)


@contextlib.contextmanager
def writing(node: Node, name: str) -> Iterator[None]:
    """One-row transactions as fast as they go, meanwhile."""
    stop = threading.Event()

    def work() -> None:
        with node.connect(name) as app:
            while not stop.is_set():
                for _ in range(20):
                    app.sql("INSERT INTO t(v) VALUES(hex(randomblob(100)))")
                app.sql("UPDATE t SET v = hex(randomblob(300)) WHERE id % 50 = abs(random()) % 50")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def flip(path: Path, at: int) -> None:
    """Change one bit behind everybody's back."""
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([byte ^ 1]), at)
    finally:
        os.close(fd)


# --- status and tail


def test_status_when_the_node_is_ready_then_json_has_the_keys_of_the_contract(
    shared: Cluster, name: str
) -> None:
    """Programs read it: names stay, and the figures are those of the mount."""
    fill(shared.primary, name)
    position = shared.agree(name)

    def found(node: Node) -> dict[str, object]:
        done = litemq("status", "--config", node.config_path, "--format", "json")
        assert done.code == 0
        status: dict[str, object] = json.loads(done.out)
        assert set(status) >= {
            "node", "role", "epoch", "primary", "ready", "databases", "replicas", "actors"
        }  # fmt: skip
        return status

    def database(node: Node) -> dict[str, object]:
        (only,) = [each for each in found(node)["databases"] if each["name"] == name]  # type: ignore[attr-defined]
        return only  # type: ignore[no-any-return]

    for node in shared.nodes:
        status = found(node)
        assert status["node"] == node.name
        assert status["role"] == ("primary" if node is shared.primary else "replica")
        assert status["epoch"] == position.epoch
        assert status["primary"] == f"primary {shared.primary.address}"
        assert status["ready"] is True
        eventually(lambda node=node: database(node)["txid"], until=position.txid)
        shown = database(node)
        assert set(shown) >= {"name", "txid", "checksum", "page_size", "pages", "lag_ms"}
        assert shown["checksum"] == f"{position.checksum:016x}"
        for actor in status["actors"]:  # type: ignore[attr-defined]
            assert set(actor) >= {"name", "pid", "state", "restarts", "rss_bytes"}
            assert actor["state"] == "running"
            assert actor["rss_bytes"] > 1 << 20
    replicas = found(shared.primary)["replicas"]
    assert {each["node"] for each in replicas} == {"replica1", "replica2"}  # type: ignore[attr-defined]
    assert all(each["connected"] for each in replicas)  # type: ignore[attr-defined]
    assert all(
        set(one) >= {"name", "txid", "lag_txids"}
        for each in replicas  # type: ignore[attr-defined]
        for one in each["databases"]
    )


def test_status_when_shown_as_a_table_then_databases_replicas_and_actors_are_in_it(
    shared: Cluster, name: str
) -> None:
    """The default is for people."""
    fill(shared.primary, name)
    shared.agree(name)

    def shown() -> bool:
        done = litemq("status", "--config", shared.primary.config_path)
        return done.code == 0 and all(
            word in done.out for word in (name, "replica1", "log_writer", "ready", "primary")
        )

    eventually(shown)


def test_status_when_an_actor_is_stopped_then_the_exit_code_tells(
    new_cluster: Callable[..., Cluster],
) -> None:
    """0 ready, 3 up but not ready, 4 not running."""
    cluster = new_cluster(replicas=1, start=False)
    replica = cluster.replicas[0]
    replica.start(ready=False)  # no primary: it never gets ready

    def code() -> int:
        return litemq("status", "--config", replica.config_path).code

    eventually(code, until=3)
    cluster.primary.start()
    eventually(code, until=0)
    cluster.close()
    Cluster.alive.append(cluster)  # the fixture closes it again
    assert code() == 4


def test_tail_when_following_then_new_lines_come(shared: Cluster, name: str) -> None:
    """-f goes on until it is interrupted, and that is its exit code."""
    with subprocess.Popen(
        [
            sys.executable, "-m", "litemq", "tail", "-f", "--db", name, "--config",
            str(shared.primary.config_path),
        ],
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:  # fmt: skip
        try:
            fill(shared.primary, name)
            shared.agree(name)
            shared.primary.hands.ask("unlink", str(shared.primary.mount / name))
            assert process.stdout is not None
            # where writes are cached, the log writer tells which WAL it has opened
            lines = map(json.loads, process.stdout)
            line = next(each for each in lines if each["event"] != "following the WAL")
            assert line["event"] == "database dropped"
            assert line["db"] == name
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


# --- export


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_export_when_the_database_is_being_written_then_the_copy_is_one_state(
    shared: Cluster, name: str, mode: str, tmp_path: Path
) -> None:
    """From every node: integrity holds, and rows only grow from copy to copy."""
    fill(shared.primary, name, mode=mode)
    shared.agree(name)
    copies = [tmp_path / f"{node.name}.db" for node in shared.nodes]
    with writing(shared.primary, name):
        for node, path in zip(shared.nodes, copies, strict=True):
            counts = []
            for _ in range(3):
                done = litemq("export", "--config", node.config_path, name, path)
                assert done.code == 0, done.err
                counts.append(rows_of(path))
            assert counts == sorted(counts)
            assert counts[0] >= 200
    shared.agree(name)
    for node, path in zip(shared.nodes, copies, strict=True):
        assert litemq("export", "--config", node.config_path, name, path).code == 0
    assert len({rows_of(path) for path in copies}) == 1
    pages = [page_hashes(path) for path in copies]
    assert pages[0][1:] == pages[1][1:] == pages[2][1:]
    assert not [each for each in os.listdir(tmp_path) if "exporting" in each]


def page_hashes(path: Path, size: int = 4096) -> list[int]:
    data = path.read_bytes()
    return [hash(data[at : at + size]) for at in range(0, len(data), size)]


def test_export_when_an_old_copy_has_a_wal_then_that_is_gone(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """SQLite would take the old WAL for the new file's."""
    fill(shared.primary, name, rows=5)
    path = tmp_path / "copy.db"
    path.write_bytes(b"old")
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").write_bytes(b"old")
    assert litemq("export", "--config", shared.primary.config_path, name, path).code == 0
    assert sorted(os.listdir(tmp_path)) == ["copy.db"]
    assert rows_of(path) == 5


def test_export_when_it_cannot_be_then_it_says_why(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """No such database, no such directory, no name for a database, the mount itself."""
    config = shared.primary.config_path
    refused(litemq("export", "--config", config, name, tmp_path / "x"), 1, "no database", name)
    refused(litemq("export", "--config", config, f"{name}-wal", tmp_path / "x"), 1, "name")
    fill(shared.primary, name, rows=1)
    refused(litemq("export", "--config", config, name, tmp_path / "no" / "x"), 1, "No such file")
    inside = shared.primary.mount / "copy.db"
    refused(litemq("export", "--config", config, name, inside), 1, "litemq import")
    assert os.listdir(tmp_path) == []


def test_export_when_a_database_was_dropped_and_made_anew_then_it_is_the_new_one(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """TXIDs go on; nothing of the old one is in the copy."""
    fill(shared.primary, name, rows=50)
    shared.primary.hands.ask("unlink", str(shared.primary.mount / name))
    shared.gone(name)
    refused(litemq("export", "--config", shared.primary.config_path, name, tmp_path / "x"), 1, name)
    fill(shared.primary, name, rows=3)
    shared.agree(name)
    for node in shared.nodes:
        path = tmp_path / node.name
        assert litemq("export", "--config", node.config_path, name, path).code == 0
        assert rows_of(path) == 3


def restored(directory: Path, path: Path) -> int:
    program = require_program("litestream")
    subprocess.run(
        [program, "restore", "-o", str(path), f"file://{directory}"], check=True, timeout=60
    )
    return rows_of(path)


def test_export_ltx_when_the_log_is_whole_then_litestream_restores_it(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """A file per transaction, from a replica's log as from the primary's."""
    fill(shared.primary, name)
    shared.agree(name)
    for node in shared.nodes[:2]:
        directory = tmp_path / node.name
        done = litemq("export", "--config", node.config_path, "--ltx", name, directory)
        assert done.code == 0, done.err
        assert len(list((directory / "ltx" / "0").glob("*.ltx"))) == 3
        assert restored(directory, tmp_path / f"{node.name}.db") == 200


def test_export_ltx_when_the_log_was_cut_or_restarted_then_a_snapshot_is_restored(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """A log that does not begin with the first transaction of the database gives one snapshot."""
    fill(shared.primary, name, rows=10)
    shared.primary.hands.ask("unlink", str(shared.primary.mount / name))
    shared.gone(name)
    fill(shared.primary, name, rows=70)
    shared.agree(name)
    directory = tmp_path / "ltx"
    done = litemq("export", "--config", shared.primary.config_path, "--ltx", name, directory)
    assert done.code == 0, done.err
    assert len(list((directory / "ltx" / "9").glob("*.ltx"))) == 1
    assert restored(directory, tmp_path / "copy.db") == 70


# --- import


def make_source(path: Path, *, page_size: int, rows: int, wal: bool) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size={page_size}")
        if wal:
            database.execute("PRAGMA journal_mode=wal")
        database.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        database.execute("BEGIN")
        database.executemany("INSERT INTO t(v) VALUES(hex(randomblob(100)))", [()] * rows)
        database.execute("COMMIT")
    return path


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("existing", ["nothing", "delete", "wal"])
def test_import_when_it_ends_then_every_node_has_it(
    shared: Cluster, name: str, page_size: int, existing: str, tmp_path: Path
) -> None:
    """Created or replaced, also by another page size over a database in WAL mode."""
    if existing != "nothing":
        fill(shared.primary, name, mode=existing)
    source = make_source(tmp_path / "source.db", page_size=page_size, rows=333, wal=False)
    done = litemq("import", "--config", shared.primary.config_path, name, source)
    assert done.code == 0, done.err
    shared.agree(name)
    for node in shared.nodes:
        with node.connect(name) as app:
            assert app.one("SELECT count(*) FROM t") == 333
            assert app.one("PRAGMA page_size") == page_size


def test_import_when_the_source_has_a_wal_then_what_is_in_it_counts(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """Committed is committed, checkpointed or not; and the source is not changed."""
    source = make_source(tmp_path / "source.db", page_size=4096, rows=10, wal=True)
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("INSERT INTO t(v) VALUES('in the WAL')")
        before = source.read_bytes()
        done = litemq("import", "--config", shared.primary.config_path, name, source)
        assert done.code == 0, done.err
        assert source.read_bytes() == before
    with shared.primary.connect(name) as app:
        assert app.one("SELECT count(*) FROM t") == 11


def test_import_when_it_replaces_then_it_is_one_transaction(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """One TXID more, however large it is."""
    fill(shared.primary, name)
    before = shared.agree(name)
    source = make_source(tmp_path / "source.db", page_size=4096, rows=20_000, wal=False)
    assert litemq("import", "--config", shared.primary.config_path, name, source).code == 0
    assert shared.agree(name).txid == before.txid + 1


def test_import_when_it_is_refused_then_nothing_has_changed(
    shared: Cluster, name: str, tmp_path: Path
) -> None:
    """What is not SQLite, what is damaged, what is not there, a replica, a bad name."""
    fill(shared.primary, name)
    before = shared.agree(name)
    config = shared.primary.config_path
    good = make_source(tmp_path / "good.db", page_size=1024, rows=500, wal=False)
    text, empty, damaged = (tmp_path / each for each in ("text", "empty", "damaged"))
    text.write_text("no database " * 100)
    empty.write_bytes(b"")
    shutil.copy(good, damaged)
    with damaged.open("r+b") as file:
        file.seek(10 * 1024)
        file.write(b"\xff" * 1024)
    refused(litemq("import", "--config", config, name, text), 1, "not a SQLite database")
    refused(litemq("import", "--config", config, name, empty), 1, "not a SQLite database")
    refused(litemq("import", "--config", config, name, damaged), 1, "damaged")
    refused(litemq("import", "--config", config, name, tmp_path / "none"), 1, "No such file")
    refused(litemq("import", "--config", config, f"{name}-pos", good), 1, "name")
    replica = shared.replicas[0].config_path
    refused(litemq("import", "--config", replica, name, good), 1, "replica", shared.primary.address)
    assert shared.agree(name) == before


# --- verify


def test_verify_when_nothing_is_wrong_then_one_line_per_database(
    shared: Cluster, name: str
) -> None:
    """On every node, and for all databases when none is named."""
    fill(shared.primary, name)
    other = next(_names)
    fill(shared.primary, other, mode="delete")
    shared.agree(name)
    shared.agree(other)
    for node in shared.nodes:
        done = litemq("verify", "--config", node.config_path)
        assert done.code == 0, done
        lines = {line.partition(":")[0]: line for line in done.out.splitlines()}
        assert lines.keys() >= {name, other}
        for line in lines.values():
            assert ": ok, " in line
            assert node is shared.primary or "same as the primary" in line
    refused(litemq("verify", "--config", shared.primary.config_path, "none.db"), 1, "none.db")


@pytest.mark.parametrize("mode", ["wal", "delete", "persist"])
def test_verify_when_the_database_is_being_written_then_there_is_no_false_alarm(
    shared: Cluster, name: str, mode: str
) -> None:
    """A page and its checksum are never looked at in one moment; that alone is no difference."""
    fill(shared.primary, name, mode=mode)
    shared.agree(name)
    with writing(shared.primary, name):
        for node in shared.nodes * 3:
            done = litemq("verify", "--config", node.config_path, name)
            assert done.code == 0, done


def test_verify_when_a_byte_of_the_backing_file_was_changed_then_the_page_is_named(
    new_cluster: Callable[..., Cluster],
) -> None:
    """It is the file that is read, not what was remembered of it; healed, it is ok again."""
    cluster = new_cluster(replicas=1)
    primary = cluster.primary
    fill(primary, "a.db", mode="delete", rows=400)
    cluster.agree("a.db")
    backing = primary.data_dir / "files" / "a.db"

    def verdict() -> tuple[int, str]:
        done = litemq("verify", "--config", primary.config_path, "a.db")
        return done.code, done.out.strip()

    assert verdict()[0] == 0
    flip(backing, 4 * 4096 + 3000)
    assert verdict() == (1, "a.db: 1 page differs from the log: 5")
    flip(backing, 6 * 4096 + 3000)
    assert verdict() == (1, "a.db: 2 pages differ from the log: 5, 7")
    flip(backing, 4 * 4096 + 3000)
    flip(backing, 6 * 4096 + 3000)
    assert verdict()[0] == 0


def test_verify_when_a_replicas_plain_file_was_changed_then_it_is_told_or_healed(
    new_cluster: Callable[..., Cluster],
) -> None:
    """A replica heals itself as soon as it notices; until then verify names the page."""
    cluster = new_cluster(replicas=0, plain=1)
    replica = cluster.replicas[0]
    replica.announce("repairing it")
    fill(cluster.primary, "a.db", mode="delete", rows=400)
    cluster.agree("a.db")
    flip(replica.mount / "a.db", 4 * 4096 + 3000)
    done = litemq("verify", "--config", replica.config_path, "a.db")
    assert done.code == 0 or "differs from the log: 5" in done.out
    eventually(lambda: litemq("verify", "--config", replica.config_path).code, until=0)
    cluster.agree("a.db")


# --- up with a command


@pytest.mark.parametrize("code", [0, 7])
def test_up_when_the_command_ends_then_so_does_the_node(
    new_cluster: Callable[..., Cluster], code: int
) -> None:
    """The command starts in a ready node and gives the exit code."""
    cluster = new_cluster(replicas=0, start=False)
    node = cluster.primary
    script = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('CREATE TABLE t(x)');"
        f"d.commit(); d.close(); sys.exit({code})"
    )
    node.start(ready=False, command=[sys.executable, "-c", script, str(node.mount / "c.db")])
    assert node.wait() == code
    node.start()
    with node.connect("c.db") as app:
        assert app.one("SELECT count(*) FROM t") == 0


def test_up_when_it_runs_already_then_the_second_is_refused(shared: Cluster) -> None:
    """One supervisor per data directory: one line, exit code 2, and the first goes on."""
    done = litemq("up", "--config", shared.primary.config_path)
    refused(done, 2, "in use by a running node")
    status = shared.primary.status()
    assert status is not None
    assert status.ready
