"""Where writes are cached, a tail knows when frames may have been lost without a gate."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from litemq.fs.wal import INDEX_HEADER_BYTES, parse_index_header, sealed_index
from litemq.fs.wal_tail import WalTail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def app(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("CREATE TABLE t(x)")
        yield db


def follow(path: Path) -> WalTail:
    tail = WalTail(f"{path}-wal", None, cached=True)
    tail.use_file(os.open(f"{path}-wal", os.O_RDWR))
    tail.use_index(os.open(f"{path}-shm", os.O_RDWR))
    return tail


@pytest.fixture
def tail(app: sqlite3.Connection, path: Path) -> Iterator[WalTail]:
    """One that has taken everything so far: three commits of one or two frames each."""
    app.execute("INSERT INTO t VALUES(1)")
    app.execute("INSERT INTO t VALUES(2)")
    with closing(follow(path)) as tail:
        assert taken(tail) == 3
        yield tail


def taken(tail: WalTail) -> int:
    return len(tail.collect(chain=False))


def checkpoint(app: sqlite3.Connection, kind: str = "PASSIVE") -> None:
    busy, frames, copied = app.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
    assert not busy
    assert frames == copied or kind == "TRUNCATE"


def insert(app: sqlite3.Connection, rows: int = 1) -> None:
    for _ in range(rows):
        app.execute("INSERT INTO t VALUES(3)")


def test_wal_when_it_starts_over_after_a_gate_then_there_is_no_doubt(
    tail: WalTail, app: sqlite3.Connection
) -> None:
    """The gate has shown that everything had been taken."""
    tail.gated()
    checkpoint(app)
    insert(app)
    assert taken(tail) == 1
    assert not tail.doubt


def test_wal_when_it_was_cut_behind_a_gate_then_there_is_doubt(
    tail: WalTail, app: sqlite3.Connection
) -> None:
    """What may have come since and was missed stands nowhere any more."""
    tail.gated()
    insert(app, 5)
    checkpoint(app, "TRUNCATE")
    insert(app)
    assert taken(tail) == 0
    assert tail.doubt


def test_wal_when_it_starts_over_without_a_gate_then_nothing_is_taken(
    tail: WalTail, app: sqlite3.Connection
) -> None:
    """Frames may have come and gone; a state without them never was."""
    checkpoint(app)
    insert(app)
    assert taken(tail) == 0
    assert tail.doubt
    insert(app)
    assert taken(tail) == 0


@pytest.mark.parametrize("rows", [1, 20])
def test_wal_when_frames_came_behind_the_gate_and_went_then_there_is_doubt(
    tail: WalTail, app: sqlite3.Connection, rows: int
) -> None:
    """They stand behind, or the new generation has come too far to tell."""
    tail.gated()
    insert(app, 5)
    checkpoint(app)
    insert(app, rows)
    assert taken(tail) == 0
    assert tail.doubt


def test_wal_when_it_started_over_twice_between_two_looks_then_there_is_doubt(
    tail: WalTail, app: sqlite3.Connection
) -> None:
    """A whole generation was missed, and nothing of it stands anywhere."""
    tail.gated()
    for _ in range(2):
        checkpoint(app)
        insert(app)
    assert taken(tail) == 0
    assert tail.doubt


def test_tail_when_a_file_has_started_over_before_then_there_is_doubt(
    app: sqlite3.Connection, path: Path
) -> None:
    """It was opened late."""
    checkpoint(app)
    insert(app)
    with closing(follow(path)) as tail:
        assert taken(tail) == 0
        assert tail.doubt


def test_doubt_when_it_is_ended_then_what_comes_next_is_taken(
    tail: WalTail, app: sqlite3.Connection
) -> None:
    """And the pages in the WAL are there for the comparison."""
    checkpoint(app)
    insert(app)
    assert taken(tail) == 0
    tail.skip_published()
    overlay = tail.overlay()
    assert overlay is not None
    assert list(overlay.numbers) == [2]
    insert(app)
    assert taken(tail) == 1


def test_seal_when_a_connection_goes_on_then_it_is_refused_and_another_recovers(
    tail: WalTail, app: sqlite3.Connection, path: Path
) -> None:
    """Not a wrong answer, not a crash: "unable to open database file", for readers, too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (2,)
        tail.seal()
        for each, statement in ((app, "INSERT INTO t VALUES(4)"), (reader, "SELECT * FROM t")):
            with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
                each.execute(statement)
    app.close()
    os.unlink(f"{path}-shm")  # as the next mount does
    with closing(sqlite3.connect(path)) as later:
        assert later.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_seal_when_a_frame_stands_behind_then_recovery_does_not_find_it(
    tail: WalTail, app: sqlite3.Connection, path: Path
) -> None:
    """It was refused its sync: SQLite has called it an error, and so it must stay."""
    with open(f"{path}-shm", "rb") as file:
        index = file.read(INDEX_HEADER_BYTES)
    insert(app)
    with open(f"{path}-shm", "r+b") as file:
        file.write(index)  # as if it had not been published
    tail.seal()
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.with_name("copy.db-wal").write_bytes(Path(f"{path}-wal").read_bytes())
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_index_when_sealed_then_it_is_none(app: sqlite3.Connection, path: Path) -> None:
    """Whoever looks at it waits for another."""
    with open(f"{path}-shm", "rb") as file:
        index = file.read(INDEX_HEADER_BYTES)
    assert parse_index_header(index) is not None
    assert parse_index_header(sealed_index(index)) is None
