"""What becomes a record: a log starts with all pages of a database in the clear, or not at all."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from litemq.actors.group_commit import GroupCommit
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Tracked
from litemq.errors import NotADatabaseError, NotInTheClearError

SIZE = 4096
Pages = list[tuple[int, bytes]]


class Nobody:
    def send(self, *_: object) -> bool:
        return True


@pytest.fixture
def tracked(tmp_path: Path) -> Iterator[Tracked]:
    layout = Layout(tmp_path)
    layout.create()
    tracked = Tracked.open("a.db", layout, 1 << 20)
    yield tracked
    tracked.log.close(clean=False)
    tracked.position.close()


@pytest.fixture
def group() -> GroupCommit:
    nobody: Any = Nobody()
    return GroupCommit(Reactor(), nobody, nobody, epoch=1, inline_bytes=1000, failed=print)


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    """A database of several pages."""
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES(zeroblob(20000))")
    connection.close()
    raw = path.read_bytes()
    return [(at // SIZE + 1, raw[at : at + SIZE]) for at in range(0, len(raw), SIZE)]


def encrypted(pages: Pages, clear: int) -> Pages:
    noise = random.Random(clear).randbytes(SIZE)
    return [
        (number, (data[:clear] + noise[clear:]) if number == 1 else noise) for number, data in pages
    ]


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("lacking", [1, 2, -1])
def test_log_when_its_first_record_lacks_a_page_then_it_does_not_start(
    tracked: Tracked, group: GroupCommit, pages: Pages, dropped: bool, lacking: int
) -> None:
    """Also where the name had a database before: nothing that is not known becomes zeros."""
    if dropped:
        group.prepare(tracked, pages, len(pages), SIZE)
        group.drop(tracked)
        group.flush()
    head = tracked.log.head
    missing = lacking if lacking > 0 else len(pages)
    some = [page for page in pages if page[0] != missing]
    with pytest.raises(ValueError, match=f"page {missing} is missing"):
        group.prepare(tracked, some, len(pages), SIZE)
    group.flush()
    assert tracked.log.head == head
    assert group.prepare(tracked, pages, len(pages), SIZE)


@pytest.mark.parametrize("clear", [32, 96, 128])
def test_commit_when_its_first_page_is_encrypted_then_it_is_no_record(
    tracked: Tracked, group: GroupCommit, pages: Pages, clear: int
) -> None:
    """Of a database that is not in the log yet."""
    with pytest.raises(NotInTheClearError):
        group.prepare(tracked, encrypted(pages, clear), len(pages), SIZE)
    assert not tracked.log.head.txid


def test_commits_when_a_database_has_been_encrypted_then_none_is_a_record_until_it_is_back(
    tracked: Tracked, group: GroupCommit, pages: Pages
) -> None:
    """With its first page in the clear again all pages are needed, whatever this commit changed."""
    group.prepare(tracked, pages, len(pages), SIZE)
    with pytest.raises(NotInTheClearError):
        group.prepare(tracked, encrypted(pages, 32), len(pages), SIZE)
    tracked.foreign = True
    with pytest.raises(NotADatabaseError):
        group.prepare(tracked, encrypted(pages, 32)[1:], len(pages), SIZE)
    with pytest.raises(ValueError, match="all pages are needed"):
        group.prepare(tracked, pages[:1], len(pages), SIZE)
    assert tracked.log.head.txid == 1
    group.drop(tracked)
    assert not tracked.foreign
