"""Pages are committed ones, wherever they come from, and SQLite is asked last."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litemq.actors.committed_pages import CommittedPages
from litemq.errors import StorageError
from litemq.fs.dbpage import PageReader
from litemq.txlog.ids import Epoch
from litemq.txlog.store import CHECKSUMS_FILE, LOG_FOLDER, DatabaseLog

PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database of a few pages."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as app:
        app.execute("CREATE TABLE t(x)")
        app.executemany("INSERT INTO t VALUES(?)", [(b"x" * 3000,)] * 9)
        app.commit()
    return path


def images(file: Path) -> dict[int, bytes]:
    data = file.read_bytes()
    return {at // PAGE + 1: data[at : at + PAGE] for at in range(0, len(data), PAGE)}


@pytest.fixture
def log(tmp_path: Path, file: Path) -> Iterator[DatabaseLog]:
    """It has all of them."""
    log = DatabaseLog.open(tmp_path / "log-of-a", segment_bytes=1 << 20, node_id=1)
    pages = images(file)
    log.prepare(Epoch(1), list(pages.items()), commit=len(pages), page_size=PAGE, timestamp_ms=1)
    log.flush()
    yield log
    log.close(clean=True)


@pytest.fixture
def pages(file: Path, log: DatabaseLog) -> Iterator[CommittedPages]:
    found = CommittedPages(
        file, log.directory / CHECKSUMS_FILE, log.directory / LOG_FOLDER, PAGE,
        open_locked=lambda: PageReader(str(file), busy_timeout_s=0), as_logged=bytes,
    )  # fmt: skip
    yield found
    found.close()


def test_page_when_a_transaction_is_under_way_then_the_log_has_the_committed_one(
    file: Path, pages: CommittedPages
) -> None:
    """What is written and not committed may be rolled back, without a word in the log."""
    committed = images(file)
    with file.open("r+b") as raw:
        raw.seek(PAGE)
        raw.write(b"y" * PAGE)
    found = pages.from_file(committed)
    assert found == {number: image for number, image in committed.items() if number != 2}
    assert pages.from_log([2]) == {2: committed[2]}


def test_page_when_file_and_log_have_it_otherwise_then_sqlite_is_asked(
    file: Path, log: DatabaseLog, pages: CommittedPages
) -> None:
    """As after a comparison that is still to come."""
    last = len(images(file))
    with closing(sqlite3.connect(file)) as app:
        app.execute("INSERT INTO t VALUES(?)", (b"z" * 3000,))
        app.commit()
        changed = [
            number for number in range(1, last + 1) if number not in pages.from_file([number])
        ]
        assert changed
        log.reset(log.head, PAGE, last, log.checksums.read(1, last), log.epochs)
        assert pages.from_log(changed) == {}
        now = images(file)
        assert pages.through_sqlite(changed) == {number: now[number] for number in changed}


def test_log_when_it_is_damaged_then_it_has_no_page(
    log: DatabaseLog, pages: CommittedPages
) -> None:
    """SQLite may have it; whoever reads the log for its own sake says what is wrong."""
    (segment,) = (log.directory / LOG_FOLDER).glob("*.seg")
    with segment.open("r+b") as raw:
        raw.seek(200)
        raw.write(b"damage")
    assert pages.from_log([1, 2]) == {}


def test_file_when_it_has_gone_then_no_page_is_found_in_it(
    file: Path, log: DatabaseLog, pages: CommittedPages
) -> None:
    """Checksums that have gone are the database's failure, told as one."""
    file.unlink()
    assert pages.from_file([1]) == {}
    (log.directory / CHECKSUMS_FILE).unlink()
    with pytest.raises(StorageError):
        pages.from_file([1])
