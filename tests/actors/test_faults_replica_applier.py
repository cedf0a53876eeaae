"""An applier of three databases, one of which fails: at every call, with every error.

The real actor in this process, on plain files; the test plays the primary.
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
from typing import Any

import lz4.block
import pytest
import sqlean  # type: ignore[import-untyped]
from faults import Faults, end_helper, injected

from litemq import config as configuration
from litemq.actors import failing, followed
from litemq.actors.replica_applier import ReplicaApplier
from litemq.fs import dbpage
from litemq.fs.pages import with_bookkeeping
from litemq.transport import messages as m
from litemq.transport import sockets
from litemq.txlog.store import DatabaseLog

# the helper thread of each actor is ended by an exception
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

NAMES = ("a.db", "bad.db", "c.db")
PAGE = 4096
PATIENCE_S = 20.0
ALWAYS = 1 << 30
#: of the calls that may fail, one in so many does
SOME_CALLS = 4
EPOCH = 3


class Source:
    """A database of the primary and its records."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._path = directory / name
        self._log = DatabaseLog.open(directory / f"{name}.log", segment_bytes=1 << 24, node_id=1)
        self._sql = sqlite3.connect(self._path, isolation_level=None)
        self._sql.execute("CREATE TABLE t(x)")
        self.records: list[bytes] = []

    def commit(self) -> None:
        self._sql.execute("INSERT INTO t VALUES(hex(randomblob(3000)))")
        pages = self.pages()
        record = self._log.prepare(EPOCH, pages, commit=len(pages), page_size=PAGE, timestamp_ms=0)
        assert record is not None
        self._log.flush()
        self.records.append(record)

    @property
    def image(self) -> bytes:
        return self._path.read_bytes()

    def pages(self) -> list[tuple[int, bytes]]:
        data = self.image
        return [(at // PAGE + 1, data[at : at + PAGE]) for at in range(0, len(data), PAGE)]

    @property
    def head(self) -> m.Head:
        head, pages = m.WirePosition.of(self._log.head), self._log.n_pages
        return m.Head(self.name, head, PAGE, pages, 0)

    def close(self) -> None:
        self._sql.close()
        self._log.close(clean=False)


class Connection:
    """One of sqlean's that fails as the test says, before SQLite hears of it."""

    def __init__(self, database: Any, path: str, faults: Faults, code: int) -> None:
        self._db, self._path, self._faults, self._code = database, path, faults, code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def cursor(self) -> Connection:
        return Connection(self._db.cursor(), self._path, self._faults, self._code)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement.startswith("ATTACH"):
            self._path = str(parameters[0])
        self._check(f"SQLite {statement}", self._path)
        return self._db.execute(statement, *parameters)

    def executemany(self, statement: str, *parameters: Any) -> Any:
        self._check(f"SQLite {statement}", self._path)
        return self._db.executemany(statement, *parameters)

    def _check(self, call: str, path: str) -> None:
        try:
            self._faults.check(call, path)
        except OSError:
            if self._code == sqlean.SQLITE_NOMEM:
                raise MemoryError from None
            error = sqlean.OperationalError("injected")
            error.sqlite_errorcode = self._code
            raise error from None


class Script:
    """The life of one applier; each `yield` lets it work."""

    def __init__(self, directory: Path, faults: Faults) -> None:
        self.faults = faults
        self.files = directory / "mount"
        path = directory / "node.toml"
        path.write_text(
            f'[node]\nname = "r"\ndata-dir = "{directory / "data"}"\n'
            f'[mount]\npath = "{self.files}"\nfuse = false\n'
            '[stream]\nlisten = "tcp://127.0.0.1:7900"\n'
            '[election]\nkind = "static"\nprimary = "tcp://127.0.0.1:7999"\n'
        )
        self.config = configuration.load(path)
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        for each in (self.files, self.config.node.data_dir, directory / "source"):
            each.mkdir()
        self.sources = {name: Source(directory / "source", name) for name in NAMES}

    def close(self) -> None:
        for source in self.sources.values():
            source.close()
        shutil.rmtree(self.config.run_dir)  # outside of a path that is too long for sockets

    def run(self) -> None:
        applier = ReplicaApplier(self.config)
        applier._catching_up.send = self._primary(applier)  # type: ignore[method-assign]
        script = self._steps(applier)
        failures: list[Exception] = []

        def step() -> None:
            try:
                next(script)
            except StopIteration:
                applier._reactor.stop()
            except Exception as error:  # noqa: BLE001 - told below, where pytest shows it
                failures.append(error)
                applier._reactor.stop()

        applier._reactor.later(0, lambda: applier._reactor.every(0.001, step))
        before = signal.getsignal(signal.SIGTERM)
        try:
            with injected(self.faults):
                applier.run()
        finally:
            signal.signal(signal.SIGTERM, before)
            end_helper(applier._helper)
        if failures:
            raise failures[0]

    def _primary(self, applier: ReplicaApplier) -> Callable[..., None]:
        """It answers what it is asked for."""

        def reply(message: m.Message, payload: bytes = b"") -> None:
            parts = [payload] if payload else []
            applier._reactor.later(0, lambda: applier._catching_up.answer(message, parts))

        def answer(message: m.Message, *_payload: bytes) -> None:
            source = self.sources.get(getattr(message, "database", ""))
            if isinstance(message, m.RequestRecords) and source is not None:
                first = message.after.txid + 1
                records = source.records[first - 1 :]
                lengths = [len(record) for record in records]
                epochs = [(EPOCH, 1)]
                chunk = m.RecordsChunk(
                    message.transfer, source.name, EPOCH, epochs, first, lengths, True
                )
                reply(chunk, b"".join(records))
            elif isinstance(message, m.RequestRepair) and message.final and source is not None:
                with self.faults.aside():
                    numbers = [number for number, _ in source.pages()]
                    data = lz4.block.compress(source.image, store_size=False)
                reply(m.RepairPages(message.transfer, source.name, PAGE, numbers), data)
                reply(m.RepairDone(message.transfer, source.name, source.head, [(EPOCH, 1)]))

        return answer

    def _steps(self, applier: ReplicaApplier) -> Iterator[None]:
        def heartbeat() -> None:
            heads = [source.head for source in self.sources.values() if source.records]
            message = m.StreamHeartbeat("p", EPOCH, 0, heads, final=False)
            applier._from_stream(message, [])

        def until(what: Callable[[], bool]) -> Iterator[None]:
            end_s = time.monotonic() + PATIENCE_S
            while not what():
                assert time.monotonic() < end_s, f"{what} after {self.faults.hit}"
                heartbeat()
                yield

        def same(*names: str) -> bool:
            with self.faults.aside():
                return all(self._is_same(applier, name) for name in names)

        others = tuple(name for name in NAMES if name != "bad.db")
        for _ in range(2):
            for source in self.sources.values():
                with self.faults.aside():
                    source.commit()
            yield from until(lambda: same(*others))
            applier._upkeep.look_around()
            applier._upkeep._sync()
            applier._upkeep._retain()
        self.faults.disarm()
        yield from until(lambda: same(*NAMES))
        for source in self.sources.values():
            source.commit()
        yield from until(lambda: same(*NAMES))
        yield from until(lambda: not any(each.reason for each in self._shown(applier)))

    def _shown(self, applier: ReplicaApplier) -> list[m.DatabaseStatus]:
        applier._upkeep.look_around()
        return [
            *(each.status(0.0) for each in applier._followed.values()),
            *applier._opening.status(),
        ]

    def _is_same(self, applier: ReplicaApplier, name: str) -> bool:
        followed, source = applier._followed.get(name), self.sources[name]
        if followed is None or followed.database.applied.txid != len(source.records):
            return False
        try:
            data = (self.files / name).read_bytes()
        except FileNotFoundError:
            return False
        image = source.image
        return with_bookkeeping(data, bytes(12)) == with_bookkeeping(image, bytes(12))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (failing, followed):
        monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.002)
        monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(sockets, "LINGER_MS", 0)


CODES = (
    sqlean.SQLITE_IOERR, sqlean.SQLITE_CANTOPEN, sqlean.SQLITE_ERROR, sqlean.SQLITE_NOMEM,
    sqlean.SQLITE_CORRUPT, sqlean.SQLITE_NOTADB, sqlean.SQLITE_BUSY, sqlean.SQLITE_LOCKED,
    sqlean.SQLITE_FULL, sqlean.SQLITE_READONLY, sqlean.SQLITE_PERM, sqlean.SQLITE_INTERNAL,
    sqlean.SQLITE_PROTOCOL, sqlean.SQLITE_SCHEMA, sqlean.SQLITE_TOOBIG, sqlean.SQLITE_CONSTRAINT,
    sqlean.SQLITE_MISMATCH, sqlean.SQLITE_MISUSE, sqlean.SQLITE_AUTH, sqlean.SQLITE_RANGE,
    sqlean.SQLITE_NOLFS, sqlean.SQLITE_INTERRUPT, sqlean.SQLITE_ABORT,
)  # fmt: skip
NUMBERS = (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EROFS)


@pytest.mark.parametrize(
    ("number", "code", "times", "step"),
    [
        (errno.EIO, sqlean.SQLITE_IOERR, 1, SOME_CALLS),
        pytest.param(errno.EACCES, sqlean.SQLITE_ERROR, ALWAYS, 1, marks=pytest.mark.torture),
        *(
            pytest.param(errno.EIO, code, times, 1, marks=pytest.mark.torture)
            for code in CODES
            for times in (1, ALWAYS)
        ),
        *(
            pytest.param(number, sqlean.SQLITE_IOERR, times, 1, marks=pytest.mark.torture)
            for number in NUMBERS
            for times in (1, 3, ALWAYS)
        ),
    ],
)
def test_applier_when_one_database_fails_at_any_call_then_the_others_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, times: int, step: int
) -> None:
    """System calls and SQLite's both; when the file can be used again, it is the primary's."""
    faults = Faults("bad.db")
    connect = dbpage._connect

    def connecting(database: str, busy_timeout_s: float) -> Any:
        inner = connect(database, busy_timeout_s)
        return Connection(inner, str(database), faults, code)

    monkeypatch.setattr(dbpage, "_connect", connecting)
    first = 0
    while True:
        first += step
        directory = tmp_path / str(first)
        directory.mkdir()
        with closing(Script(directory, faults)) as script:
            faults.arm(number, first, times)
            script.run()
        if not faults.hit:
            break
    assert first > 50, "calls were seen"
