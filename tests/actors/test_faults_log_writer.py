"""A log writer of three databases, one of which fails: at every call, with every error.

The real actor in this process; instead of a mount there are the files themselves, and what a mount
would tell is told by the test.
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

import pytest
from faults import Faults, end_helper, injected

from litemq import config as configuration
from litemq.actors import failing
from litemq.actors.log_writer import LogWriter
from litemq.transport import messages as m
from litemq.transport import sockets
from litemq.txlog.checksums import page_checksum

# the helper thread of each actor is ended by an exception
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

NAMES = ("a.db", "bad.db", "c.db")
PATIENCE_S = 20.0
INCARNATION = 7
ALWAYS = 1 << 30
#: of the calls that may fail, one in so many does
SOME_CALLS = 4


class Script:
    """The life of one log writer; each `yield` lets it work."""

    def __init__(self, directory: Path, mode: str, faults: Faults) -> None:
        self.mode, self.faults = mode, faults
        data = directory / "data"
        self.files = directory / "mount"
        self.files.mkdir()
        data.mkdir()
        (data / "files").symlink_to(self.files)
        path = directory / "node.toml"
        path.write_text(
            f'[node]\nname = "n"\ndata-dir = "{data}"\n[mount]\npath = "{self.files}"\n'
            '[stream]\nlisten = "tcp://127.0.0.1:7999"\n'
            '[election]\nkind = "static"\nprimary = "tcp://127.0.0.1:7999"\n'
        )
        self.config = configuration.load(path)
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, sqlite3.Connection] = {}
        self.reports = 0
        #: gates that wait, and those that have had their verdict
        self.gates: set[int] = set()
        self.commits = 0

    def write(self) -> None:
        """A transaction in each database. Connections to WALs stay open, as programs' do."""
        self.commits += 1
        for name in NAMES:
            database = self._open.get(name)
            if database is None:
                database = self._open[name] = sqlite3.connect(self.files / name)
                database.isolation_level = None
                database.execute(f"PRAGMA journal_mode={self.mode}")
                database.execute("PRAGMA wal_autocheckpoint=0")
                database.execute("CREATE TABLE IF NOT EXISTS t(x)")
            database.execute("INSERT INTO t VALUES (hex(randomblob(3000)))")

    def close(self) -> None:
        for database in self._open.values():
            database.close()
        shutil.rmtree(self.config.run_dir)  # outside of a path that is too long for sockets

    def run(self) -> None:
        """From a start at rest to the moment when all of every database is logged again."""
        writer = LogWriter(self.config, epoch=1)
        writer._to_fuse.send = self._mount(writer)  # type: ignore[method-assign]
        script = self._steps(writer)
        failures: list[Exception] = []

        def step() -> None:
            try:
                next(script)
            except StopIteration:
                writer._reactor.stop()
            except Exception as error:  # noqa: BLE001 - told below, where pytest shows it
                failures.append(error)
                writer._reactor.stop()

        writer._reactor.later(0, lambda: writer._reactor.every(0.001, step))
        before = signal.getsignal(signal.SIGTERM)
        try:
            with injected(self.faults):
                writer.run()
        finally:
            signal.signal(signal.SIGTERM, before)
            writer._wals._watch.close()
            end_helper(writer._helper)
            for tracked in writer._tracked.values():
                tracked.close()
                if tracked.wal is not None:
                    tracked.wal.close()
        if failures:
            raise failures[0]

    def _mount(self, writer: LogWriter) -> Callable[..., bool]:
        """It has told everything before it is asked."""

        def answer(message: m.Message, *_payload: bytes) -> bool:
            if isinstance(message, m.OpenGate | m.RefuseGate):
                self.gates.discard(message.gate)
            if isinstance(message, m.EchoCapture):
                echo = m.CaptureEcho(message.token)
                writer._reactor.later(0, lambda: writer._handle(echo, []))
            return True

        return answer

    def _steps(self, writer: LogWriter) -> Iterator[None]:
        def resync() -> None:
            writer._handle(
                m.ResyncCapture(
                    writer._token, INCARNATION, mounted=False, taken_over=False, unclean=True,
                    wals=[], shms=[], written=[], withheld=[],
                ),
                [],
            )  # fmt: skip

        def until(what: Any) -> Iterator[None]:
            end_s = time.monotonic() + PATIENCE_S
            while not what():
                assert time.monotonic() < end_s, f"{what} after {self.faults.hit}"
                if not writer._group.agreed:
                    resync()
                yield

        def logged(*names: str) -> bool:
            return all(self._is_logged(writer, name) for name in names)

        others = tuple(name for name in NAMES if name != "bad.db")
        yield from until(lambda: writer._mounted)
        for _ in range(2):
            self.write()
            self._report(writer)
            yield from until(lambda: logged(*others) and not self.gates)
        self.faults.disarm()
        yield from until(lambda: logged(*NAMES))
        self.write()
        self._report(writer)
        yield from until(lambda: logged(*NAMES))
        yield from until(lambda: not any(each.reason for each in self._shown(writer)))

    def _shown(self, writer: LogWriter) -> list[m.DatabaseStatus]:
        return [
            *(each.status("ok") for each in writer._tracked.values()),
            *writer._failing.status(),
        ]

    def _report(self, writer: LogWriter) -> None:
        """As the mount does, in each mode."""
        for name in NAMES:
            self.reports += 1
            if self.mode == "wal":
                writer._handle(m.WalOpened(name), [])
                writer._handle(m.ShmOpened(name), [])
                with self.faults.aside():
                    size = (self.files / f"{name}-wal").stat().st_size
                self.gates.add(self.reports)
                writer._handle(m.WalGate(self.reports, name, size), [])
                continue
            with self.faults.aside():
                data = (self.files / name).read_bytes()
            numbers = list(range(1, len(data) // 4096 + 1))
            if self.reports % 2:
                report = m.UnexplainedWrites(self.reports, name, False, numbers)
                writer._handle(report, [])
                continue
            self.gates.add(self.reports)
            commit = m.CommitFile(self.reports, self.reports, name, False, numbers)
            writer._handle(commit, [])

    def _is_logged(self, writer: LogWriter, name: str) -> bool:
        tracked = writer._tracked.get(name)
        if tracked is None or tracked.log.pending_bytes or tracked.comparing is not None:
            return False
        with self.faults.aside():
            data = self._image(name)
        pages = range(1, len(data) // 4096 + 1)
        return tracked.log.n_pages == len(pages) and all(
            page_checksum(number, data[(number - 1) * 4096 : number * 4096])
            == tracked.log.page_checksum(number)
            for number in pages
        )

    def _image(self, name: str) -> bytes:
        """The database as it is committed."""
        if self.mode != "wal":
            return (self.files / name).read_bytes()
        copy = self.files.parent / "copy"
        for suffix in ("", "-wal"):
            shutil.copy(self.files / f"{name}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return copy.read_bytes()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(failing, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(sockets, "LINGER_MS", 0)


@pytest.mark.parametrize(
    ("mode", "number", "times", "step"),
    [
        ("delete", errno.EIO, 1, SOME_CALLS),
        ("wal", errno.EIO, ALWAYS, SOME_CALLS),
        *(
            pytest.param(mode, number, times, 1, marks=pytest.mark.torture)
            for mode in ("delete", "wal")
            for number in (errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ESTALE)
            for times in (1, 3, ALWAYS)
        ),
    ],
)
def test_log_writer_when_one_database_fails_at_any_call_then_the_others_are_logged(
    tmp_path: Path, mode: str, number: int, times: int, step: int
) -> None:
    """Nothing of one file ends the actor or holds up others; when the file can be used again, all
    of it is logged. No call of a program is left without its answer."""
    faults = Faults("bad.db")
    first = 0
    while True:
        first += step
        directory = tmp_path / str(first)
        directory.mkdir()
        with closing(Script(directory, mode, faults)) as script:
            script.write()
            faults.arm(number, first, times)
            script.run()
        if not faults.hit:
            break
    assert first > 50, "calls were seen"
