"""A moment when nobody writes is looked for, whatever the files say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from sql_process import SqlProcess

from litemq.actors.layout import Layout
from litemq.actors.quiet_moments import MOST_LOOKS, QuietMoments, journal_active

ACTIVE = bytes.fromhex("d9d505f920a163d7")


@pytest.fixture
def asked() -> MagicMock:
    return MagicMock()


def make(directory: Path, asked: MagicMock | None = None, *, cached: bool = True) -> QuietMoments:
    layout = Layout(directory)
    layout.create()
    layout.files.mkdir(exist_ok=True)
    nobody = MagicMock()
    return QuietMoments(
        MagicMock(), MagicMock(), layout, mount_path=str, ask_report=asked or nobody,
        compare=nobody, unopened=nobody, unreadable=nobody, cached=cached,
    )  # fmt: skip


@pytest.fixture
def moments(tmp_path: Path, asked: MagicMock) -> QuietMoments:
    return make(tmp_path, asked)


def quiet_of(name: str) -> MagicMock:
    quiet = MagicMock()
    quiet.tracked.name, quiet.tracked.comparing = name, None
    return quiet


def test_moment_when_the_kernel_alone_knew_of_a_journal_then_it_is_given_up(
    tmp_path: Path, moments: QuietMoments, asked: MagicMock
) -> None:
    """It came when it was asked for, behind the look."""
    files, quiet = Layout(tmp_path).files, quiet_of("a.db")
    (files / "a.db").write_bytes(b"x")
    (files / "a.db-journal").write_bytes(ACTIVE)
    moments._written_out(quiet, 0)
    quiet.end.assert_called_once()
    asked.assert_not_called()


def test_moment_when_the_journal_can_not_be_read_then_the_actor_goes_on(
    tmp_path: Path, moments: QuietMoments, asked: MagicMock
) -> None:
    """What is wrong with one file is that file's alone, and shows when it is compared."""
    files = Layout(tmp_path).files
    (files / "a.db").write_bytes(b"x")
    (files / "a.db-journal").mkdir()
    with pytest.raises(OSError, match="directory"):
        journal_active(str(files / "a.db"))
    moments._written_out(quiet_of("a.db"), 0)
    asked.assert_called_once()


@pytest.mark.parametrize(("there", "asks"), [(b"", True), (b"x", False), (None, False)])
def test_moment_when_all_pages_are_wanted_then_the_mount_is_asked_of_an_empty_file(
    tmp_path: Path, moments: QuietMoments, there: bytes | None, asks: bool
) -> None:
    """One that has gone meanwhile (None) is for the comparison to meet."""
    quiet = quiet_of("a.db")
    quiet.tracked.comparing = MagicMock(numbers=None)
    if there is not None:
        (Layout(tmp_path).files / "a.db").write_bytes(there)
    assert moments._needs_no_report(quiet) is not asks


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[int]:
    """A database that a program has locked for itself."""
    with SqlProcess(tmp_path / "locked.db") as app:
        app.script("CREATE TABLE t(x)", "BEGIN EXCLUSIVE")
        with open(tmp_path / "locked.db", "rb") as file:
            yield file.fileno()


@pytest.mark.parametrize(("mode", "goes_on"), [("rollback", False), ("wal", True)])
def test_database_when_somebody_has_it_locked_then_it_is_looked_at_in_wal_mode_only(
    moments: QuietMoments, locked: int, mode: str, goes_on: bool
) -> None:
    """Its last program makes a checkpoint under that lock, and may be waiting at a gate."""
    tracked = quiet_of("a.db").tracked
    tracked.looks = 0
    tracked.wal = MagicMock(unshared=False) if mode == "wal" else None
    moments._write_out_and_look(tracked, os.dup(locked))
    assert moments._helper.call.called is goes_on
    assert tracked.looks == (not goes_on)


@pytest.mark.parametrize("cached", [False, True])
def test_database_when_it_is_compared_under_locks_then_it_is_watched_as_well(
    tmp_path: Path, cached: bool
) -> None:
    """A program that takes no locks (nolock=1) is not kept out by them."""
    moments, files = make(tmp_path, cached=cached), Layout(tmp_path).files
    with SqlProcess(files / "a.db") as app:
        app.script("CREATE TABLE t(x)")
    tracked = quiet_of("a.db").tracked
    tracked.looks, tracked.wal = MOST_LOOKS, None
    quiet = moments._keep_quiet(tracked, os.open(files / "a.db", os.O_RDONLY))
    assert quiet is not None
    assert quiet.locked
    try:
        if cached:
            moments._written_out(quiet, 0)
        assert quiet.still()
        with open(files / "a.db", "r+b") as file:
            file.write(b"SQLite")
        assert not quiet.still()
    finally:
        quiet.end()
        os.close(quiet.fd)
