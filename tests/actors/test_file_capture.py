"""What is read while somebody writes becomes no record."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sql_process import SqlProcess

from litemq.actors import file_capture
from litemq.actors.file_capture import FileCapture
from litemq.actors.layout import Layout
from litemq.actors.quiet import Quiet
from litemq.actors.tracked import Comparison
from litemq.actors.undisturbed import Undisturbed
from litemq.fs.locks import SharedLock


class Group:
    """Where records go: `meanwhile` is done when the first page has been read for one."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.records: list[list[int]] = []

    def prepare(self, _tracked: Any, pages: Any, *_: Any, **__: Any) -> bool:
        numbers = []
        for number, _ in pages:
            if not numbers:
                self.meanwhile()
            numbers.append(number)
        self.records.append(numbers)
        return True

    def after(self, *_: Any) -> None:
        """Nobody waits."""


class Compared:
    """A database of some pages, none of which the log knows."""

    def __init__(self, directory: Path, meanwhile: Callable[[Path], object]) -> None:
        layout = Layout(directory)
        layout.create()
        layout.files.mkdir(exist_ok=True)
        self.path = layout.files / "a.db"
        with SqlProcess(self.path) as app:
            app.script("CREATE TABLE t(x)", "INSERT INTO t VALUES(zeroblob(20000))")
        self.group = Group(lambda: meanwhile(self.path))
        self.again: list[float] = []
        reactor: Any = SimpleNamespace(later=lambda pause_s, _: self.again.append(pause_s))
        anything: Any = self.group
        nobody: Any = SimpleNamespace()
        self.files = FileCapture(
            anything, nobody, reactor, nobody, layout, mount_path=str, explained=print,
            ask_report=print, beat=lambda: None, compared=print, broken=print,
        )  # fmt: skip
        log = SimpleNamespace(page_checksum=lambda _: 0, page_size=0, n_pages=0, trusted=True)
        self.tracked: Any = SimpleNamespace(
            name="a.db", wal=None, comparing=Comparison(0, None), last_capture=None, gone=False,
            log=log, looks=0, opening=True,
        )  # fmt: skip

    def compare(self, *, locked: bool) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        lock = SharedLock(fd)
        assert not locked or lock.take()
        watch = Undisturbed.begin(fd, str(self.path), None, lambda: False)
        assert watch is not None
        self.files._compare_quiet(Quiet(self.tracked, fd, lock, None, None, os.close, watch))


def overwrite(path: Path) -> None:
    """As a program does that takes no locks."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"x")


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Compared]:
    return lambda meanwhile=lambda _: None: Compared(tmp_path, meanwhile)


@pytest.mark.parametrize("locked", [False, True])
def test_comparison_when_nobody_writes_then_it_ends(
    compared: Callable[..., Compared], locked: bool
) -> None:
    database = compared()
    database.compare(locked=locked)
    assert len(database.group.records) == 1
    assert database.tracked.comparing is None


def test_comparison_when_a_program_without_locks_writes_meanwhile_then_nothing_is_logged(
    compared: Callable[..., Compared],
) -> None:
    """Our locks do not keep it out: it may be in the middle of a transaction."""
    database = compared(overwrite)
    database.compare(locked=True)
    assert not database.group.records
    assert database.tracked.comparing is not None
    assert len(database.again) == 1


def test_comparison_when_locked_then_its_pages_are_not_held_all_at_once(
    compared: Callable[..., Compared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be as many as the database has."""
    monkeypatch.setattr(file_capture, "UNLOCKED_BYTES", 0)
    database = compared()
    database.compare(locked=False)
    assert not database.group.records
    database.compare(locked=True)
    assert len(database.group.records) == 1
