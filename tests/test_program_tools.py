"""Real tools on real nodes: backups, migrations and geodata are right, or their tool says so."""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from capabilities import require_program
from nodes import Cluster, Node
from program_process import ProgramProcess
from program_table import INSTALLED, PROGRAMS, PYTHON, SCRIPTS
from program_tools import COPIERS, ToolError, marks, run, shell
from program_world import Writer
from waiting import eventually

pytestmark = [pytest.mark.fuse, pytest.mark.torture, pytest.mark.timeout(400)]

#: a FUSE actor that is killed
DEATH = ("actor ended", "can't apply", "housekeeping failed")


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """A primary and a replica, and on both the table that all programs use."""
    made = new_cluster(replicas=1)
    with made.primary.connect("entry.db") as app:
        app.sql("PRAGMA journal_mode=WAL")
        app.sql("CREATE TABLE entry (id INTEGER PRIMARY KEY, mark TEXT NOT NULL)")
    made.agree("entry.db")
    return made


@contextlib.contextmanager
def writing(cluster: Cluster) -> Iterator[Writer]:
    """A program writes rows on the primary meanwhile."""
    writer = Writer(ProgramProcess(PROGRAMS[0], cluster.primary.mount / "entry.db"), "a")
    try:
        with writer.at_work():
            yield writer
    finally:
        writer.process.kill()
    assert not writer.errors


def require_programs() -> None:
    if not PYTHON.exists() or not (INSTALLED / "node_modules").exists():
        require_program("the programs of `make programs`")


def kill_the_mount(node: Node) -> None:
    """The FUSE actor, once; another serves when this returns."""
    node.announce(*DEATH)
    killed = node.kill_actor("fuse_capture")
    eventually(lambda: node.actor("fuse_capture").pid != killed, what="it is started again")
    node.wait_ready()


@contextlib.contextmanager
def killing_the_mount(node: Node) -> Iterator[None]:
    """The FUSE actor is killed again and again meanwhile, not too often for the node."""
    node.announce(*DEATH)
    stop = threading.Event()

    def work() -> None:
        for _ in range(2):  # a node ends when an actor has died six times in a minute
            if stop.wait(random.uniform(0.05, 0.4)):
                return
            node.kill_actor("fuse_capture")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    eventually(
        lambda: os.path.exists(node.mount / "entry.db"), what=f"the mount of {node.name} is back"
    )
    node.wait_ready()


# --- copies


@pytest.mark.parametrize("tool", COPIERS)
def test_copy_when_transactions_arrive_meanwhile_then_it_is_one_state(
    cluster: Cluster, tool: str, tmp_path: Path
) -> None:
    """On the primary and on the replica: all rows up to one, and those that were there before."""
    with writing(cluster) as writer:
        for number, node in enumerate(cluster.nodes * 2):
            database, copy = node.mount / "entry.db", tmp_path / f"{number}.db"
            before = len(marks(database))
            COPIERS[tool](database, copy)
            found = marks(copy)
            written = list(writer.acks)
            assert len(found) >= before
            assert found[: len(written)] == written[: len(found)]
    cluster.agree("entry.db")


@pytest.mark.parametrize("tool", COPIERS)
def test_copy_when_the_mount_dies_meanwhile_then_it_is_right_or_the_tool_fails(
    cluster: Cluster, tool: str, tmp_path: Path
) -> None:
    """And afterwards it is right again, on both nodes."""
    with cluster.primary.connect("entry.db") as app:
        app.sql("CREATE TABLE ballast (data)")
        app.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000) "
            "INSERT INTO ballast SELECT randomblob(4000) FROM n"
        )
        app.sql("INSERT INTO entry (mark) VALUES ('a.000001.')")
    cluster.agree("entry.db")
    expected = shell(cluster.primary.mount / "entry.db", "SELECT sum(length(data)) FROM ballast")
    ends = {"right": 0, "failed": 0}
    for node in cluster.nodes:
        with killing_the_mount(node):
            for number in range(6):
                copy = tmp_path / f"{node.name}{number}.db"
                try:
                    COPIERS[tool](node.mount / "entry.db", copy)
                except ToolError:
                    ends["failed"] += 1
                    continue
                ends["right"] += 1
                assert marks(copy) == ["a.000001."]
                assert shell(copy, "SELECT sum(length(data)) FROM ballast") == expected
        after = tmp_path / f"{node.name}-after.db"
        COPIERS[tool](node.mount / "entry.db", after)
        assert shell(after, "SELECT sum(length(data)) FROM ballast") == expected
    print(ends)
    cluster.agree("entry.db")


# --- backups that read the mount's files


class Borg:
    """borg, with all that it keeps below one folder."""

    def __init__(self, directory: Path) -> None:
        self._program = require_program("borg")
        self._repository = directory / "borg"
        self._environment = {
            "BORG_BASE_DIR": str(directory / "borg-base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        self._run("init", "--encryption", "none", str(self._repository))

    def back_up(self, name: str, source: Path) -> dict[str, str]:
        """What it says of each file: U for what it took to be unchanged, and did not read."""
        out = self._run("create", "--list", f"{self._repository}::{name}", ".", directory=source)
        return {path: status for status, path in re.findall(r"(?m)^([A-Z]) (?:\./)?(\S+)$", out)}

    def restore(self, name: str, target: Path) -> None:
        target.mkdir()
        self._run("extract", f"{self._repository}::{name}", directory=target)

    def _run(self, *words: str, directory: Path | None = None) -> str:
        done = subprocess.run(
            [self._program, *words], capture_output=True, text=True, cwd=directory,
            env=os.environ | self._environment, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode != 0:  # 1 is a warning, of a file that can't be read too
            raise ToolError(f"borg {words[0]}: {done.returncode}: {done.stderr[-600:]}")
        return done.stderr


class Restic:
    """restic, with all that it keeps below one folder."""

    def __init__(self, directory: Path) -> None:
        self._program = require_program("restic")
        self._environment = {
            "RESTIC_REPOSITORY": str(directory / "restic"),
            "RESTIC_PASSWORD": "of a test",
            "RESTIC_CACHE_DIR": str(directory / "restic-cache"),
        }
        self._run("init")

    def back_up(self, name: str, source: Path) -> dict[str, str]:
        out = self._run("backup", "--tag", name, "-vv", ".", directory=source)
        found = re.findall(r"(?m)^(unchanged|new|modified)\s+\S*/(\S+?)(?:,|$)", out)
        return {path: "U" if status == "unchanged" else "A" for status, path in found}

    def restore(self, name: str, target: Path) -> None:
        self._run("restore", "latest", "--tag", name, "--target", str(target))

    def _run(self, *words: str, directory: Path | None = None) -> str:
        done = subprocess.run(
            [self._program, *words], capture_output=True, text=True, cwd=directory,
            env=os.environ | self._environment, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ToolError(f"restic {words[0]}: {done.returncode}: {done.stderr[-600:]}")
        return done.stdout


def same_files(mount: Path, restored: Path) -> None:
    """Every file of the mount, byte for byte, wherever the backup has put it."""
    names = [name for name in os.listdir(mount) if not name.endswith("-shm")]
    assert "entry.db" in names
    for name in names:
        (copy,) = restored.rglob(name)
        assert filecmp.cmp(mount / name, copy, shallow=False), name


@pytest.mark.parametrize("kind", [Borg, Restic])
def test_backup_of_the_mount_when_restored_then_it_is_the_database(
    cluster: Cluster, kind: type[Borg | Restic], tmp_path: Path
) -> None:
    """What has not changed is not read again, also after deaths of the mount."""
    node = cluster.primary
    with node.connect("entry.db") as app:
        app.sql("INSERT INTO entry (mark) VALUES ('a.000001.')")
        app.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    cluster.agree("entry.db")
    backup = kind(tmp_path)
    assert backup.back_up("first", node.mount)["entry.db"] != "U"
    backup.restore("first", tmp_path / "restored")
    same_files(node.mount, tmp_path / "restored")
    (copy,) = (tmp_path / "restored").rglob("entry.db")
    assert marks(copy) == ["a.000001."]

    time.sleep(2)  # borg reads files again that are as young as its last look
    backup.back_up("second", node.mount)
    kill_the_mount(node)
    assert backup.back_up("third", node.mount)["entry.db"] == "U"
    cluster.replicas[0].announce("primary is silent")
    node.stop()
    node.start()
    assert backup.back_up("fourth", node.mount)["entry.db"] == "U"


@pytest.mark.parametrize("kind", [Borg, Restic])
def test_backup_of_a_replica_when_its_node_is_stopped_and_started_then_it_is_the_database(
    cluster: Cluster, kind: type[Borg | Restic], tmp_path: Path
) -> None:
    """The replica's own work may change a file while it is read: the tool says so, or is right."""
    with cluster.primary.connect("entry.db") as app:
        app.sql("INSERT INTO entry (mark) VALUES ('a.000001.')")
    node = cluster.replicas[0]
    backup = kind(tmp_path)
    names = (f"turn{number}" for number in itertools.count())

    def back_up() -> str | None:
        name = next(names)
        with contextlib.suppress(ToolError):
            backup.back_up(name, node.mount)
            return name
        return None

    for _ in range(2):
        cluster.agree("entry.db")
        name = eventually(back_up, timeout_s=60, what="a backup is made")
        backup.restore(name, tmp_path / name)
        (copy,) = (tmp_path / name).rglob("entry.db")
        assert marks(copy) == ["a.000001."]
        node.stop()
        node.start()


@pytest.mark.parametrize("kind", [Borg, Restic])
def test_backup_of_the_mount_when_it_dies_meanwhile_then_it_is_right_or_fails(
    cluster: Cluster, kind: type[Borg | Restic], tmp_path: Path
) -> None:
    """Half a file is never taken for a whole one."""
    with cluster.primary.connect("entry.db") as app:
        app.sql("PRAGMA journal_mode=DELETE")
        app.sql("INSERT INTO entry (mark) VALUES (hex(randomblob(10000000)))")
    cluster.agree("entry.db")
    backup = kind(tmp_path)
    ends = {"right": 0, "failed": 0}
    for node in cluster.nodes:
        with killing_the_mount(node):
            done = []
            for number in range(4):
                try:
                    backup.back_up(f"{node.name}{number}", node.mount)
                except (ToolError, OSError):  # it may not even find its directory
                    ends["failed"] += 1
                else:
                    done.append(number)
        for number in done:
            restored = tmp_path / f"{node.name}{number}"
            backup.restore(f"{node.name}{number}", restored)
            # a mount that is just away is an empty directory: a backup of nothing
            if any(restored.rglob("entry.db")):
                same_files(node.mount, restored)
                ends["right"] += 1
    print(ends)


# --- geodata


def test_geopackage_when_gdal_writes_it_then_a_replica_reads_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    """GDAL sets its own page cache and indexes with R-Trees; the FUSE actor dies in between."""
    program, info = require_program("ogr2ogr"), require_program("ogrinfo")
    points = tmp_path / "points.csv"
    lines = [f"{number % 180},{number % 90},{number}" for number in range(2000)]
    points.write_text("\n".join(["x,y,number", *lines]) + "\n")
    source = ("-oo", "X_POSSIBLE_NAMES=x", "-oo", "Y_POSSIBLE_NAMES=y")
    geodata = cluster.primary.mount / "points.gpkg"
    run(program, "-f", "GPKG", geodata, points, *source, "-a_srs", "EPSG:4326")
    cluster.agree("points.gpkg")
    run(program, "-append", geodata, points, *source, "-a_srs", "EPSG:4326")
    kill_the_mount(cluster.primary)
    run(program, "-append", geodata, points, *source, "-a_srs", "EPSG:4326")
    cluster.agree("points.gpkg")
    for node in cluster.nodes:
        told = run(info, "-ro", "-so", node.mount / "points.gpkg", "points")
        assert "Feature Count: 6000" in told
        within = run(
            info, "-ro", "-al", "-so", "-spat", "10", "10", "10.5", "10.5",
            node.mount / "points.gpkg",
        )  # fmt: skip
        assert re.search(r"Feature Count: (\d+)", within)[1] == "36"  # type: ignore[index]
        copy = tmp_path / f"{node.name}.gpkg"
        run(program, "-f", "GPKG", copy, node.mount / "points.gpkg")
        assert "Feature Count: 6000" in run(info, "-so", copy, "points")


def test_spatialite_when_it_writes_then_a_replica_finds_by_its_index(cluster: Cluster) -> None:
    """Hundreds of tables of its own, triggers, and R-Trees; the FUSE actor dies in between."""
    load = ".load mod_spatialite"
    if not list(Path("/usr/lib").glob("*/mod_spatialite.so")):
        require_program("mod_spatialite")
    database = cluster.primary.mount / "places.db"
    shell(
        database, load, "SELECT InitSpatialMetaData(1)",
        "CREATE TABLE place (id INTEGER PRIMARY KEY, name TEXT)",
        "SELECT AddGeometryColumn('place', 'at', 4326, 'POINT', 'XY')",
        "SELECT CreateSpatialIndex('place', 'at')",
    )  # fmt: skip
    insert = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO "
        "place (name, at) SELECT 'p'||i, MakePoint(i % 180, i % 90, 4326) FROM n"
    )
    shell(database, load, insert)
    kill_the_mount(cluster.primary)
    shell(database, load, insert)
    cluster.agree("places.db")
    find = (
        "SELECT count(*) FROM place WHERE id IN (SELECT rowid FROM SpatialIndex WHERE "
        "f_table_name='place' AND search_frame=BuildMbr(9.5, 9.5, 10.5, 10.5)) "
        "AND Intersects(at, BuildMbr(9.5, 9.5, 10.5, 10.5, 4326))"
    )
    for node in cluster.nodes:
        # SpatiaLite may write to its tables when it opens a database: here it can't, and need not
        assert shell(node.mount / "places.db", load, find).strip() == "6"
        assert shell(node.mount / "places.db", "PRAGMA integrity_check").strip() == "ok"


# --- migrations and test runners


def alembic(database: Path, *words: str) -> str:
    require_programs()
    configuration = database.parent.parent / "alembic.ini"
    configuration.write_text(f"[alembic]\nscript_location = {SCRIPTS / 'alembic'}\n")
    return run(
        PYTHON, "-m", "alembic", "-c", configuration, "-x", f"database={database}", *words
    )  # fmt: skip


def schema(database: Path) -> str:
    return shell(database, "SELECT sql FROM sqlite_master ORDER BY name")


def test_migrations_when_alembic_copies_tables_then_both_nodes_have_the_new_schema(
    cluster: Cluster, tmp_path: Path
) -> None:
    """As natively: up, down, up; a replica tells its revision and refuses to be migrated."""
    (tmp_path / "native").mkdir()
    native, database = tmp_path / "native" / "app.db", cluster.primary.mount / "app.db"
    replica = cluster.replicas[0].mount / "app.db"
    for words in (
        ("upgrade", "one"),
        ("upgrade", "head"),
        ("downgrade", "one"),
        ("upgrade", "two"),
    ):
        for each in (native, database):
            alembic(each, *words)
        cluster.agree("app.db")
        for each in (database, replica):
            assert schema(each) == schema(native)
            assert marks(each) == marks(native)
            assert "two" in alembic(each, "current") or words[1] == "one"
    with pytest.raises(ToolError, match="readonly database"):
        alembic(replica, "downgrade", "one")


def test_migration_when_the_mount_dies_meanwhile_then_alembic_fails_or_is_done(
    cluster: Cluster, tmp_path: Path
) -> None:
    """It says so; no row is lost; what it left (as a killed one does natively) can be dropped."""
    database = cluster.primary.mount / "app.db"
    alembic(database, "upgrade", "one")
    expected = marks(database)
    failed = 0
    for _ in range(2):
        with killing_the_mount(cluster.primary):
            for words in (("upgrade", "two"), ("downgrade", "one")):
                try:
                    alembic(database, *words)
                except ToolError:
                    failed += 1
        cluster.agree("app.db")
        for node in cluster.nodes:
            tables = shell(node.mount / "app.db", ".tables").split()
            assert "entry" in tables or "_alembic_tmp_entry" in tables
        if "_alembic_tmp_entry" in shell(database, ".tables").split():
            if "entry" in shell(database, ".tables").split():
                shell(database, "DROP TABLE _alembic_tmp_entry")
            else:  # between the two statements, which Alembic does not run as one transaction
                shell(database, "ALTER TABLE _alembic_tmp_entry RENAME TO entry")
        assert marks(database) == expected
        kind = "kind" in schema(database)
        alembic(database, "stamp", "two" if kind else "one")
        alembic(database, "downgrade", "one")
        assert marks(database) == expected
    print(f"{failed} failed")
    cluster.agree("app.db")


def test_django_tests_when_run_in_parallel_then_they_end_as_natively(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Their databases are made, cloned for each worker and deleted, in the mount."""
    require_programs()
    for directory in (tmp_path, cluster.primary.mount):
        for keep in ((), ("--keepdb",), ("--keepdb",)):
            done = subprocess.run(
                [PYTHON, "django_site.py", "test", "django_entries", "--parallel", "4", *keep],
                cwd=SCRIPTS, capture_output=True, text=True, timeout=120, check=False,
                env=os.environ
                | {
                    "DATABASE": str(directory / "site.db"), "SETUP": "per-request",
                    "TEST_DATABASE": str(directory / "test.db"),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            assert "Ran 16 tests" in done.stderr
            left = {name for name in os.listdir(directory) if name.startswith("test")}
            kept = {"test.db", *(f"test_{number}.db" for number in range(1, 5))}
            assert left == (kept if keep else set()), done.stderr
    for name in sorted(left):
        cluster.agree(name)
        (cluster.primary.mount / name).unlink()
        cluster.gone(name)


# --- Litestream


def test_litestream_when_it_runs_beside_the_primary_then_its_backup_restores(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The recipe of docs/programs.md; started anew after the mount's death, it goes on."""
    program = require_program("litestream")
    database = cluster.primary.mount / "entry.db"
    configuration = tmp_path / "litestream.yml"
    configuration.write_text(
        f"dbs:\n  - path: {database}\n    meta-path: {tmp_path / 'meta'}\n"
        f"    replica:\n      path: {tmp_path / 'backup'}\n      sync-interval: 100ms\n"
    )

    def restored_to(count: int) -> bool:
        copy = tmp_path / "copy.db"
        copy.unlink(missing_ok=True)
        done = subprocess.run(
            [program, "restore", "-config", configuration, "-o", copy, database],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-600:]
        found = marks(copy)
        assert len(found) >= count
        assert found == marks(database)[: len(found)]
        return True

    log = (tmp_path / "log").open("wb")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [program, "replicate", "-config", configuration], stdout=log, stderr=log, cwd=tmp_path
        )

    beside = start()
    try:
        with writing(cluster) as writer:
            eventually(lambda: len(writer.acks) > 50, what="50 rows are written")
        eventually(lambda: restored_to(len(writer.acks)), timeout_s=60, what="all rows are there")
        cluster.agree("entry.db")
        kill_the_mount(cluster.primary)
        beside.terminate()
        beside.wait(30)
        beside = start()
        shell(database, "INSERT INTO entry (mark) VALUES ('last')")
        count = len(marks(database))
        eventually(lambda: restored_to(count), timeout_s=60, what="the last row is there")
    finally:
        beside.kill()
        beside.wait()
        log.close()
        shutil.rmtree(tmp_path / "backup", ignore_errors=True)
    cluster.agree("entry.db")
    assert not [name for name in os.listdir(cluster.primary.mount) if "litestream" in name]
