"""Who is in the way, for messages."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from sql_process import SqlProcess

from litemq.fs.lock_holders import held_by, lock_holders, stopped_holders


def test_lock_when_a_program_holds_it_then_the_program_is_named(tmp_path: Path) -> None:
    """A reader's lock, too, and those on a WAL index."""
    path = tmp_path / "a.db"
    with SqlProcess(path) as app:
        app.script("CREATE TABLE t(x)", "BEGIN EXCLUSIVE")
        (holder,) = lock_holders(str(path))
        assert holder.startswith(f"{app.pid} (")
        assert f"process {app.pid} (" in held_by(str(path))
        app.script("COMMIT", "PRAGMA journal_mode=WAL", "BEGIN")
        app.sql("SELECT * FROM t")
        assert len(lock_holders(str(path))) == 1


def test_lock_when_nobody_holds_one_then_nobody_is_named(tmp_path: Path) -> None:
    """Nor when there is no file."""
    (tmp_path / "a.db").touch()
    assert held_by(str(tmp_path / "a.db")) == ""
    assert lock_holders(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("mode", "begin", "in_the_way"),
    [
        ("wal", [], False),
        ("wal", ["BEGIN", "SELECT * FROM t"], True),
        ("wal", ["BEGIN IMMEDIATE"], True),
        ("delete", [], False),
        ("delete", ["BEGIN", "SELECT * FROM t"], True),
        ("delete", ["BEGIN IMMEDIATE"], True),
        ("delete", ["BEGIN EXCLUSIVE"], True),
    ],
)
def test_stopped_program_when_others_may_wait_for_it_then_it_is_named(
    tmp_path: Path, mode: str, begin: list[str], *, in_the_way: bool
) -> None:
    """Not one that is idle, nor one that runs."""
    path, other = tmp_path / "a.db", tmp_path / "b.db"
    other.touch()
    paths = [str(other), str(path)]
    with SqlProcess(path) as app:
        app.script(f"PRAGMA journal_mode={mode}", "CREATE TABLE t(x)", "SELECT * FROM t", *begin)
        assert stopped_holders(str(tmp_path), paths) == {}
        os.kill(app.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, app.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            found = stopped_holders(str(tmp_path), paths)
        finally:
            os.kill(app.pid, signal.SIGCONT)
    assert set(found) == ({str(path)} if in_the_way else set())
    for told in found.values():
        assert told.startswith(f"process {app.pid} (")
        assert told.endswith("is stopped and holds a lock on it")
