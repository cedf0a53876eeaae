"""Real mounts: the poll loop under pyfuse3, and mount points before, during and after."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from capabilities import require_fuse
from leftovers import clear

from litemq.errors import ConfigError
from litemq.fs import mount

NOBODY = 65534
_numbers = iter(range(1, 1 << 30))
PROGRAM = Path(__file__).with_name("passthrough_fs.py")
pytestmark = pytest.mark.fuse


@pytest.fixture
def place(run_directory):
    """A directory of the run: what a failed or killed test leaves there is found and taken away."""
    path = run_directory / f"mount{next(_numbers)}"
    path.mkdir()
    yield path
    clear(path)


@pytest.fixture
def point(place):
    """A prepared mount point; nothing is mounted there afterwards."""
    require_fuse()
    path = place / "mount point \\ with blanks"
    mount.prepare_mountpoint(str(path))
    return path


@pytest.fixture
def source(place):
    path = place / "source"
    path.mkdir()
    return path


@pytest.fixture
def uid():
    """Who mounts."""
    return os.getuid()


@pytest.fixture
def server(source, point, uid):
    process = subprocess.Popen(
        [sys.executable, PROGRAM, source, point, str(uid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=source,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def test_loop_when_sqlite_works_through_it_then_its_databases_are_well(server, source, point):
    """Every kind of call that SQLite makes, in both journal modes."""
    for mode in ("delete", "wal"):
        db = sqlite3.connect(point / mode, isolation_level=None)
        assert db.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        db.execute("CREATE TABLE t(x)")
        for _ in range(50):
            db.execute("INSERT INTO t VALUES (randomblob(5000))")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
        db = sqlite3.connect(source / mode)
        assert db.execute("SELECT count(*) FROM t").fetchone() == (50,)
        db.close()


@pytest.fixture
def a_users_device():
    """/dev/fuse as udev makes it; a machine without udev has it for root alone."""
    mode = os.stat("/dev/fuse").st_mode
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.usefixtures("a_users_device")
@pytest.mark.parametrize("uid", [NOBODY])
def test_mount_when_an_ordinary_user_mounts_then_it_works_and_is_not_writable_beneath(
    place, source, point, uid, request
):
    """fusermount3 wants a directory that its user can write to; just for that moment it is."""
    os.chown(source, uid, uid)
    os.chown(point, uid, uid)
    server = request.getfixturevalue("server")
    assert mount.find_mount(str(point)).fs_type.startswith("fuse")
    server.kill()
    server.wait(10)
    clear(place)
    assert point.stat().st_mode & 0o777 == mount.MODE_UNDER_MOUNT


def test_cache_when_a_file_is_written_then_its_other_pages_stay_cached(server, source, point):
    """The kernel must not take the changed mtime of its own writes for somebody else's.

    Seen by a change behind its back, which it has no reason to notice.
    """
    path = point / "file"
    path.write_bytes(b"a" * 8192)
    fd = os.open(path, os.O_RDWR)
    assert os.pread(fd, 4096, 0) == b"a" * 4096
    (source / "file").write_bytes(b"b" * 8192)
    os.pwrite(fd, b"c" * 100, 5000)
    os.stat(path)
    assert os.pread(fd, 4096, 0) == b"a" * 4096
    os.close(fd)


def test_loop_when_a_call_is_parked_then_others_are_answered(server, source, point):
    """Reads of other files go on while several unlinks are held."""
    for number in range(3):
        (point / f"held{number}").touch()
    (point / "other").write_bytes(bytes(1 << 20))
    threads = [threading.Thread(target=(point / f"held{number}").unlink) for number in range(3)]
    fd = os.open(point / "other", os.O_RDONLY)
    threads[0].start()
    longest_s = reads = 0
    while threads[0].is_alive():
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        before = time.perf_counter()
        assert len(os.pread(fd, 4096, reads % 250 * 4096)) == 4096
        longest_s = max(longest_s, time.perf_counter() - before)
        reads += 1
    os.close(fd)
    assert reads > 20
    assert longest_s < 0.15
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(path.name for path in source.iterdir()) == ["other"]


def test_loop_when_terminated_from_within_then_it_ends_well(server, point):
    """pyfuse3.terminate wakes the worker that waits, answers the call, and unmounts."""
    (point / "end").touch()
    (point / "end").unlink()
    assert server.wait(10) == 0
    assert not mount.is_mounted(str(point))


def test_loop_when_stopped_by_a_signal_then_it_ends_well(server, point):
    """A signal handler may call stop; nothing stays mounted."""
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert server.stderr.read() == ""
    assert not mount.is_mounted(str(point))


def test_loop_when_a_handler_raises_then_the_process_ends_with_it(server, point):
    """Fail fast: a broken handler is not an errno."""
    (point / "fail").touch()
    with pytest.raises(OSError, match=r"."):
        (point / "fail").unlink()
    assert server.wait(10) == 1
    assert "ZeroDivisionError: a handler that is broken" in server.stderr.read()


def test_loop_when_clients_are_killed_in_calls_then_it_goes_on(server, point):
    """A request may vanish between poll and read: the loop must not stand still in that read."""
    (point / "file").write_bytes(bytes(4096))
    busy = "import os,sys\nwhile True: os.close(os.open(sys.argv[1], os.O_RDWR))"
    for _ in range(10):
        clients = [
            subprocess.Popen([sys.executable, "-Sc", busy, point / "file"]) for _ in range(3)
        ]
        for client in clients:
            client.kill()
            client.wait(10)
    assert (point / "file").read_bytes() == bytes(4096)
    assert server.poll() is None


def test_stale_mount_when_the_server_was_killed_then_it_is_cleaned(server, point):
    """Alive is not stale; killed is stale, and can be cleaned and prepared again."""
    assert mount.is_mounted(str(point))
    assert not mount.stale_mount(str(point))
    with pytest.raises(ConfigError, match="alive"):
        mount.clean_stale_mount(str(point))
    server.kill()
    server.wait(10)
    assert mount.stale_mount(str(point))
    assert mount.clean_stale_mount(str(point))
    assert not mount.is_mounted(str(point))
    assert not mount.clean_stale_mount(str(point))
    mount.prepare_mountpoint(str(point))


def test_abort_when_a_call_is_held_then_it_fails_at_once(server, point):
    """The way out when a process does not answer any more."""
    (point / "held").touch()
    os.kill(server.pid, signal.SIGSTOP)
    failed = []

    def unlink():
        try:
            (point / "held").unlink()
        except OSError as exc:
            failed.append(exc.errno)

    thread = threading.Thread(target=unlink)
    thread.start()
    assert mount.abort(str(point))
    thread.join(10)
    assert failed
    assert not mount.abort(str(point.parent))
    server.send_signal(signal.SIGCONT)


def test_prepare_mountpoint_when_it_holds_anything_or_is_a_file_then_it_is_refused(tmp_path):
    """Files under a mount would be hidden; a missing directory is made, unwritable."""
    path = tmp_path / "mnt"
    mount.prepare_mountpoint(str(path))
    mount.prepare_mountpoint(str(path))
    assert path.stat().st_mode & 0o777 == 0o555
    path.chmod(0o755)
    (path / "left over").touch()
    with pytest.raises(ConfigError, match="left over"):
        mount.prepare_mountpoint(str(path))
    with pytest.raises(ConfigError, match="not a directory"):
        mount.prepare_mountpoint(str(path / "left over"))
    with pytest.raises(ConfigError, match="cannot be a mount point"):
        mount.prepare_mountpoint(str(tmp_path / "no" / "parent"))
    with suppress(FileNotFoundError):
        (path / "left over").unlink()
