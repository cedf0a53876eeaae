"""What is noted of a database file between two looks at it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litemq.fs.capture import DatabaseCapture


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A database of 2 pages of 4 KiB, and a descriptor of it."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t(x)")
        db.commit()
    fd = os.open(path, os.O_RDONLY)
    yield path, fd
    os.close(fd)


def test_take_when_the_header_is_older_than_the_pages_then_a_report_has_them_all(
    database: tuple[Path, int],
) -> None:
    """A database that shrank and grows again writes its last pages before page 1."""
    _, fd = database
    for unexplained, expected in ((True, [1, 6]), (False, [1])):
        capture = DatabaseCapture("a.db")
        capture.note_write(0, 4096)
        capture.note_write(5 * 4096, 4096)
        commit = capture.take(fd, unexplained=unexplained)
        assert commit is not None
        assert commit.numbers == expected


def test_take_when_the_page_size_has_changed_then_a_report_is_of_everything(
    database: tuple[Path, int],
) -> None:
    """Numbers that were reported before it count in another size."""
    path, fd = database
    capture = DatabaseCapture("a.db")
    capture.note_write(0, 4096)
    assert capture.take(fd, unexplained=True) is not None
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA page_size=1024")
        db.execute("VACUUM")
    capture.note_write(0, 1024)
    commit = capture.take(fd, unexplained=True)
    assert commit is not None
    assert commit.everything
