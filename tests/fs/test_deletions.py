"""What may be deleted by its name, and for whom SQLite's locks have to stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litemq.fs import deletions
from litemq.fs.deletions import Deletions
from litemq.fs.tree import Tree


class Locks:
    """What the kernel would tell of the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.exclusive = self.written = False
        monkeypatch.setattr(deletions, "is_exclusive", lambda *_: self.exclusive)
        monkeypatch.setattr(deletions, "is_written", lambda *_: self.written)


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Locks:
    return Locks(monkeypatch)


def allowed(
    directory: Path,
    suffix: str,
    *,
    content: bytes = b"frames",
    database: bytes | None = b"pages",
    used: bool = False,
    after_a_death: bool = False,
) -> bool:
    gatekeeper: Any = None
    if database is not None:
        (directory / "a.db").write_bytes(database)
    tree = Tree(directory, gatekeeper)
    tree.load()
    file = tree.add(f"a.db{suffix}")
    if suffix:
        (directory / file.name).write_bytes(content)
    rule = Deletions(1, after_a_death=after_a_death)
    return rule.allowed(file, tree.by_name.get("a.db"), lambda _: used)


@pytest.mark.parametrize(("content", "used"), [(b"frames", False), (b"frames", True), (b"", True)])
def test_wal_when_it_has_frames_or_users_then_it_goes_under_the_lock_only(
    tmp_path: Path, locks: Locks, content: bytes, used: bool
) -> None:
    """Frames may be all there is of a commit whose writer has died."""
    assert not allowed(tmp_path, "-wal", content=content, used=used)
    locks.exclusive = True
    assert allowed(tmp_path, "-wal", content=content, used=used)


def test_wal_when_it_is_empty_and_nobody_has_it_then_anybody_may(
    tmp_path: Path, locks: Locks
) -> None:
    """Nothing hangs on it."""
    assert allowed(tmp_path, "-wal", content=b"")


@pytest.mark.parametrize("database", [None, b""])
def test_wal_when_there_is_no_database_then_anybody_may(
    tmp_path: Path, locks: Locks, database: bytes | None
) -> None:
    """Also SQLite, which finds it beside an empty one and holds no lock for that."""
    assert allowed(tmp_path, "-wal", database=database, used=True)


@pytest.mark.parametrize("used", [False, True])
def test_index_when_it_is_used_then_it_goes_under_the_lock_only(
    tmp_path: Path, locks: Locks, used: bool
) -> None:
    """It can be made again as long as nobody has it mapped."""
    assert allowed(tmp_path, "-shm", used=used) == (not used)
    locks.exclusive = True
    assert allowed(tmp_path, "-shm", used=used)


@pytest.mark.parametrize("after_a_death", [False, True])
def test_journal_when_a_mount_has_died_then_it_goes_under_a_writers_lock_only(
    tmp_path: Path, locks: Locks, after_a_death: bool
) -> None:
    """Before that there is nobody who could take it for a dead writer's; that would cost each
    commit a look at all locks.
    """
    assert allowed(tmp_path, "-journal", after_a_death=after_a_death) == (not after_a_death)
    locks.written = True
    assert allowed(tmp_path, "-journal", after_a_death=after_a_death)


def test_database_when_it_is_deleted_then_no_lock_is_asked_for(
    tmp_path: Path, locks: Locks
) -> None:
    """As on any file system."""
    assert allowed(tmp_path, "", used=True, after_a_death=True)
