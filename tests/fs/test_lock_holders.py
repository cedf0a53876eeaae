"""Who is in the way, for messages."""

from __future__ import annotations

from pathlib import Path

from sql_process import SqlProcess

from litemq.fs.lock_holders import held_by, lock_holders


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
