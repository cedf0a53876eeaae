"""A log writer whose mount has lost its cache, and a database that can't be given what it lacks.

The real actor in this process, at rest; what a mount would tell and hear is the test's.
"""

from __future__ import annotations

import errno
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from faults import end_helper

from litemq import config as configuration
from litemq.actors import failing, file_capture
from litemq.actors.log_writer import LogWriter
from litemq.config import Config
from litemq.errors import NotADatabaseError, StorageError
from litemq.fs.sqlite_errors import BusyError
from litemq.transport import messages as m
from litemq.transport import sockets

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

NAMES = ("a.db", "bad.db", "c.db")
PATIENCE_S = 20.0


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    path = tmp_path / "node.toml"
    path.write_text(
        f'[node]\nname = "n"\ndata-dir = "{tmp_path}/data"\n'
        f'[mount]\npath = "{tmp_path}/mount"\nwrite-back = true\n'
        '[stream]\nlisten = "tcp://127.0.0.1:7999"\n'
        '[election]\nkind = "static"\nprimary = "tcp://127.0.0.1:7999"\n'
    )
    config = configuration.load(path)
    (tmp_path / "data" / "files").mkdir(parents=True)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    yield config
    shutil.rmtree(config.run_dir)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(failing, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(sockets, "LINGER_MS", 0)


def run(
    config: Config, script: Callable[[LogWriter], Iterator[None]], *, unclean: bool
) -> list[m.Message]:
    """One life of a log writer at rest, as long as the script goes; what its mount heard."""
    writer = LogWriter(config, epoch=1)
    heard: list[m.Message] = []

    def hear(message: m.Message, *_payload: bytes) -> bool:
        heard.append(message)
        if isinstance(message, m.LogWriterStarted):
            answer = m.ResyncCapture(
                message.token, 7, mounted=False, taken_over=False, unclean=unclean,
                wals=[], shms=[], written=[], withheld=[],
            )  # fmt: skip
            writer._reactor.later(0, lambda: writer._handle(answer, []))
        return True

    writer._to_fuse.send = hear  # type: ignore[method-assign]
    steps = script(writer)
    end_s = time.monotonic() + PATIENCE_S

    def step() -> None:
        if next(steps, True) or time.monotonic() > end_s:
            writer._reactor.stop()

    writer._reactor.later(0, lambda: writer._reactor.every(0.001, step))
    before = signal.getsignal(signal.SIGTERM)
    try:
        writer.run()
    finally:
        signal.signal(signal.SIGTERM, before)
        assert writer._cached is not None
        for watch in (writer._wals._watch, writer._cached._watch):
            watch.close()
        end_helper(writer._helper)
        for tracked in writer._tracked.values():
            tracked.close()
            if tracked.wal is not None:
                tracked.wal.close()
    assert time.monotonic() < end_s, "the script came to its end"
    return heard


def ready(writer: LogWriter) -> Iterator[None]:
    while not writer._ready:
        yield


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        count: int = database.execute("SELECT count(*) FROM t").fetchone()[0]
        return count


@pytest.fixture
def behind(config: Config) -> Path:
    """Files with one row each, whose logs have two; their folder."""
    files = config.node.data_dir / "files"
    for rows_so_far in range(2):
        for name in NAMES:
            if rows_so_far:
                shutil.copy(files / name, files.parent / f"{name}-before")
            with closing(sqlite3.connect(files / name, isolation_level=None)) as database:
                database.execute("PRAGMA journal_mode=wal")
                database.execute("CREATE TABLE IF NOT EXISTS t(x)")
                database.execute("INSERT INTO t VALUES (randomblob(9000))")
        run(config, ready, unclean=True)
    for name in NAMES:
        (files.parent / f"{name}-before").rename(files / name)
        (files / f"{name}-wal").touch()
    return files


ERRORS = (
    *(StorageError("no", number) for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, None,
    )),
    OSError(errno.ENOSPC, "no"), BusyError("no"), NotADatabaseError("no"), MemoryError(),
)  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_database_when_it_cannot_be_brought_forward_then_it_alone_is_withheld_until_it_can(
    config: Config, behind: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever the reason: the mount is ready with all others, and hears who is kept first."""
    bring_forward = file_capture.bring_forward
    refusing = True

    def refuse(path: Path, *rest: object) -> None:
        if path.name == "bad.db" and refusing:
            raise error
        bring_forward(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(file_capture, "bring_forward", refuse)
    shown: list[tuple[str, str]] = []

    def script(writer: LogWriter) -> Iterator[None]:
        nonlocal refusing
        yield from ready(writer)
        shown.extend((each.name, each.state) for each in writer._failing.status())
        assert sorted(writer._tracked) == ["a.db", "c.db"]
        attempts = writer._failing._spells["bad.db"].pause_s
        while writer._failing._spells["bad.db"].pause_s == attempts:
            yield
        refusing = False
        while "bad.db" in writer._withheld or writer._tracked["bad.db"].failing.reason:
            yield

    heard = run(config, script, unclean=True)
    told = [
        each.databases if isinstance(each, m.WithholdDatabases) else "ready"
        for each in heard
        if isinstance(each, m.WithholdDatabases | m.CaptureReady)
    ]
    assert told == [["bad.db"], "ready", []]
    assert shown == [("bad.db", "failing")]
    assert [rows(behind / name) for name in NAMES] == [2, 2, 2]


def test_database_when_its_programs_were_let_through_then_its_file_counts(
    config: Config, behind: Path
) -> None:
    """What they committed is on no log; the log's state is an earlier one."""
    (config.node.data_dir / "unlogged").write_text('["bad.db"]')
    heard = run(config, ready, unclean=True)
    assert m.WithholdDatabases([]) in heard
    assert [rows(behind / name) for name in NAMES] == [2, 1, 2]
