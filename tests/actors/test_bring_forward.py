"""A database that is behind its log gets its pages from there: all of them, or none."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litemq.actors.bring_forward import bring_forward, find_images, missing_pages
from litemq.actors.page_spool import PageSpool
from litemq.txlog.ids import Epoch
from litemq.txlog.store import DatabaseLog

PAGE = 4096


def pages_of(path: Path) -> list[tuple[int, bytes]]:
    """As they stand in a file whose WAL is empty."""
    data = path.read_bytes()
    return [(at // PAGE + 1, data[at : at + PAGE]) for at in range(0, len(data), PAGE)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def logged(tmp_path: Path) -> Iterator[DatabaseLog]:
    log = DatabaseLog.open(tmp_path / "logged", segment_bytes=16 * 1024, node_id=1)
    yield log
    log.close(clean=True)


@pytest.fixture
def states(path: Path, logged: DatabaseLog) -> list[bytes]:
    """What the file was after each of 20 transactions that are in the log."""
    states = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("CREATE TABLE t(x)")
        for number in range(20):
            db.execute("INSERT INTO t VALUES(?)", (random.Random(number).randbytes(6000),))
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            states.append(path.read_bytes())
            pages = pages_of(path)
            logged.prepare(Epoch(1), pages, commit=len(pages), page_size=PAGE, timestamp_ms=number)
            logged.flush()
    return states


def differing(logged: DatabaseLog, path: Path) -> list[int]:
    from litemq.txlog.checksums import page_checksum

    return [
        number
        for number, image in pages_of(path)
        if page_checksum(number, image) != logged.page_checksum(number)
    ]


@pytest.mark.parametrize("at", [0, 7, 18])
def test_file_when_it_is_behind_then_it_has_what_the_log_says(
    path: Path, logged: DatabaseLog, states: list[bytes], at: int
) -> None:
    """All rows, and a WAL that the mount goes on to know."""
    path.write_bytes(states[at])
    Path(f"{path}-wal").touch()
    missing = missing_pages(logged, differing(logged, path), len(states[at]) // PAGE)
    with closing(PageSpool(path.parent, PAGE)) as images:
        assert find_images(logged, missing, images, lambda: None)
        bring_forward(path, logged, images)
    assert Path(f"{path}-wal").stat().st_size == 0
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (20,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_images_when_the_log_does_not_reach_back_then_there_are_none(
    path: Path, logged: DatabaseLog, states: list[bytes]
) -> None:
    """Some would be worse than none."""
    assert logged.enforce_retention(1e12, 0, 0) > 0
    path.write_bytes(states[0])
    every_page = list(range(1, logged.n_pages + 1))
    with closing(PageSpool(path.parent, PAGE)) as images:
        assert not find_images(logged, every_page, images, lambda: None)
        assert find_images(logged, every_page[-1:], images, lambda: None)
