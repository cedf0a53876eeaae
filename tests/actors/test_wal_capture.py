"""The log writer reads what was committed, and comes back to its messages."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litemq.actors import wal_capture
from litemq.actors.failing import Failing
from litemq.actors.layout import Layout
from litemq.actors.tracked import Comparison
from litemq.actors.wal_capture import WalCapture
from litemq.fs import wal_tail
from litemq.fs.wal_tail import WalTail

#: more commits than this while one look lasts, and it would never end
MOST = 200


class Group:
    """Where commits go: while one is prepared, a program has committed more."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.rows = 0

    def prepare(self, *_: Any, **__: Any) -> bool:
        assert self.rows < MOST, "it goes on as long as there are new ones"
        for _ in range(2):
            self._database.execute("INSERT INTO t VALUES(randomblob(500))")
            self.rows += 1
        return True

    def flush_if_large(self, _tracked: Any) -> None:
        """Nothing is logged."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=wal")
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("CREATE TABLE t(x)")
        yield database


@pytest.mark.parametrize("chain", [False, True])
def test_look_when_a_program_commits_faster_than_it_is_read_then_it_ends(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain: bool
) -> None:
    """With all that was there; what has come meanwhile is for the next one."""
    monkeypatch.setattr(wal_tail, "READ_BYTES", 1)
    monkeypatch.setattr(wal_capture, "WriteWatch", lambda *_: None)
    for _ in range(10):
        database.execute("INSERT INTO t VALUES(1)")
    reactor: Any = SimpleNamespace(on_readable=lambda *_: None)
    group: Any = Group(database)
    nobody: Any = None
    wals = WalCapture(
        group, reactor, nobody, Layout(tmp_path),
        mount_path=str, on_rewound=print, on_doubt=print, on_left_behind=print, look=print,
        beat=lambda: None, broken=print,
    )  # fmt: skip
    with closing(WalTail(str(tmp_path / "a.db-wal"), None)) as tail:
        assert tail.open()
        tail.use_index(os.open(tmp_path / "a.db-shm", os.O_RDWR))
        tracked: Any = SimpleNamespace(name="a.db", comparing=None, failing=Failing(), wal=tail)
        published = tail.published(chain=chain)
        assert wals.take(tracked, tail, chain=chain)
        assert tail.has_taken(published)
        assert not tail.has_taken(tail.published(chain=chain))


class Gated:
    """A cached WAL that is followed, and a checkpoint that waits for it."""

    def __init__(self, directory: Path, tail: WalTail, wanted: Comparison | None) -> None:
        self.later: list[Callable[[], object]] = []
        self.looks = 0
        self.verdicts: list[tuple[int, int, bool]] = []
        self.tracked: Any = SimpleNamespace(
            name="a.db", comparing=wanted, failing=Failing(), wal=tail, look_again=0
        )
        reactor: Any = SimpleNamespace(
            on_readable=lambda *_: None, later=lambda _, call: self.later.append(call)
        )
        group: Any = SimpleNamespace(
            prepare=lambda *_, **__: True,
            flush_if_large=lambda _: None,
            after=lambda _, call: call(0),
        )
        nobody: Any = object()
        self.wals = WalCapture(
            group, reactor, nobody, Layout(directory),
            mount_path=str, on_rewound=print, on_doubt=print, on_left_behind=print,
            look=self._look, beat=lambda: None, broken=print, cached=nobody,
        )  # fmt: skip

    def _look(self, _tracked: Any) -> None:
        self.looks += 1

    def close_gate(self) -> None:
        self.wals.gate(self.tracked, 0, lambda *verdict: self.verdicts.append(verdict))

    def next_turn(self) -> None:
        calls, self.later = self.later, []
        for call in calls:
            call()


@pytest.fixture
def tail(
    database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WalTail]:
    monkeypatch.setattr(wal_capture, "WriteWatch", lambda *_: None)
    database.execute("INSERT INTO t VALUES(1)")
    with closing(WalTail(str(tmp_path / "a.db-wal"), None, cached=True)) as tail:
        assert tail.open()
        tail.use_index(os.open(tmp_path / "a.db-shm", os.O_RDWR))
        yield tail


def test_gate_when_its_database_is_to_be_compared_then_that_is_done_behind_it(
    tmp_path: Path, tail: WalTail
) -> None:
    """A program that is never idle is left alone by its own checkpoint: no lock has to be taken."""
    gated = Gated(tmp_path, tail, Comparison(1, [2]))
    gated.close_gate()
    assert (gated.looks, gated.verdicts) == (1, [])
    gated.tracked.comparing = None
    gated.next_turn()
    assert gated.verdicts == [(0, tail.captured_end, True)]


def test_gate_when_the_comparison_does_not_end_then_it_opens_all_the_same(
    tmp_path: Path, tail: WalTail
) -> None:
    gated = Gated(tmp_path, tail, Comparison(1, [2]))
    gated.close_gate()
    for _ in range(wal_capture.INDEX_RETRIES):
        assert not gated.verdicts
        gated.next_turn()
    assert len(gated.verdicts) == 1
    assert not gated.later


@pytest.mark.parametrize("wanted", [None, Comparison(1, None, pause_s=1.0)])
def test_gate_when_there_is_nothing_to_wait_for_then_it_opens_at_once(
    tmp_path: Path, tail: WalTail, wanted: Comparison | None
) -> None:
    """A file that is half there is compared when it is whole."""
    gated = Gated(tmp_path, tail, wanted)
    gated.close_gate()
    assert (gated.looks, len(gated.verdicts)) == (0, 1)
