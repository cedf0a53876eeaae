"""Stranger's tools and plain files: what the log holds can be had without LiteMQ."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litemq.errors import FormatError, GapError
from litemq.txlog import archive, ltx
from litemq.txlog.segment_reader import SegmentReader
from litemq.txlog.store import DatabaseLog

OpenLog = Callable[..., DatabaseLog]
LITESTREAM = shutil.which("litestream", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def log_file(log: DatabaseLog, path: Path, page_size: int) -> None:
    """Log the database file as it stands: every page is offered, what changed is taken."""
    data = path.read_bytes()
    pages = [
        (at // page_size + 1, data[at : at + page_size]) for at in range(0, len(data), page_size)
    ]
    log.prepare(1, pages, commit=len(pages), page_size=page_size, timestamp_ms=1_700_000_000_000)
    log.flush()


@pytest.fixture(params=[512, 4096, 65536])
def history(
    request: pytest.FixtureRequest, tmp_path: Path, open_log: OpenLog
) -> tuple[DatabaseLog, list[bytes]]:
    """A real database with inserts, deletes, VACUUM and new tables; its log, and the file after
    every transaction.
    """
    path = tmp_path / "app.db"
    log = open_log(segment_bytes=1 << 16)
    states: list[bytes] = []
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {request.param}")
        statements = ["CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)"]
        statements += ["INSERT INTO t (b) VALUES (randomblob(900))"] * 20
        statements += ["DELETE FROM t WHERE a < 15", "VACUUM", "CREATE TABLE u (x)"]
        statements += ["INSERT INTO u VALUES (1)"]
        for statement in statements:
            connection.execute(statement)
            log_file(log, path, request.param)
            states.append(path.read_bytes())
    finally:
        connection.close()
    return log, states


def records_of(log: DatabaseLog) -> list[bytes]:
    return list(archive.records_of(SegmentReader(log.directory / "log")))


def test_a_log_when_restored_to_any_txid_then_is_the_file_of_that_time(
    history: tuple[DatabaseLog, list[bytes]], tmp_path: Path
) -> None:
    """Byte for byte, after each transaction."""
    log, states = history
    records = records_of(log)
    assert len(records) == len(states) == log.head.txid
    for txid, expected in enumerate(states, 1):
        position = archive.restore(records[:txid], tmp_path / "out.db")
        assert position.txid == txid
        assert (tmp_path / "out.db").read_bytes() == expected
    assert position.checksum == log.head.checksum


def test_records_when_one_is_missing_or_damaged_then_restore_leaves_the_file(
    history: tuple[DatabaseLog, list[bytes]], tmp_path: Path
) -> None:
    """The target is replaced only by a whole, verified history."""
    records = records_of(history[0])
    target = tmp_path / "out.db"
    target.write_bytes(b"mine")
    with pytest.raises(GapError):
        archive.restore(records[:3] + records[4:], target)
    with pytest.raises(GapError):
        archive.restore(records[1:], target)
    with pytest.raises(FormatError):
        archive.restore([*records[:3], records[3][:-1] + bytes([records[3][-1] ^ 1])], target)
    assert target.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.glob("out.db*")] == ["out.db"]


@pytest.mark.skipif(
    LITESTREAM is None and "CI" not in os.environ, reason="litestream is not installed"
)
def test_an_export_when_litestream_restores_it_then_is_the_same_database(
    history: tuple[DatabaseLog, list[bytes]], tmp_path: Path
) -> None:
    """A tool that knows nothing of LiteMQ accepts every file and comes to the same bytes, at any
    TXID.
    """
    log, states = history
    folder = tmp_path / "archive"
    assert archive.export_ltx(records_of(log), folder) == len(states)
    assert len(list((folder / "ltx" / "0").iterdir())) == len(states)
    assert LITESTREAM is not None
    for txid in (1, 10, len(states)):
        out = tmp_path / f"{txid}.db"
        done = subprocess.run(
            [
                LITESTREAM, "restore", "-o", str(out), "-txid", f"{txid:016x}",
                "-integrity-check", "full", f"file://{folder}",
            ],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == states[txid - 1]


def test_an_export_when_database_checksums_are_kept_then_is_the_log_byte_for_byte(
    history: tuple[DatabaseLog, list[bytes]], tmp_path: Path
) -> None:
    """The files are the records; without checksums they differ in flags, checksums and nothing
    else.
    """
    records = records_of(history[0])
    archive.export_ltx(records, tmp_path / "a", db_checksums=True)
    files = sorted((tmp_path / "a" / "ltx" / "0").iterdir())
    assert [path.read_bytes() for path in files] == records
    assert files[0].name == f"{1:016x}-{1:016x}.ltx"
    for record in records:
        plain = ltx.without_database_checksums(record)
        assert plain[100:-16] == record[100:-16]
        with pytest.raises(FormatError, match="flags"):
            ltx.decode(plain)
