"""A WAL that is far behind: taken as one, and read from end to end, not frame by frame."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litemq.errors import FormatError
from litemq.fs import wal_frames
from litemq.fs.comparison import compare
from litemq.fs.wal_tail import WalTail
from litemq.txlog.checksums import page_checksum

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database whose WAL holds 200 transactions, some of which make it smaller; and no index."""
    made = tmp_path / "made"
    rng = random.Random(7)
    with closing(sqlite3.connect(made, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=wal")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("PRAGMA auto_vacuum=full")
        db.execute("CREATE TABLE t(i INTEGER PRIMARY KEY, x)")
        for number in range(200):
            if number % 7 == 6:
                db.execute("DELETE FROM t WHERE i IN (SELECT i FROM t ORDER BY i LIMIT 3)")
            else:
                db.execute("INSERT INTO t(x) VALUES(?)", (rng.randbytes(9000),))
        path = tmp_path / "a.db"
        path.write_bytes(made.read_bytes())
        Path(f"{path}-wal").write_bytes(Path(f"{made}-wal").read_bytes())
    return path


def image(path: Path) -> dict[int, bytes]:
    """What SQLite makes of it."""
    copy = path.with_name("copy")
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    with closing(sqlite3.connect(copy)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = copy.read_bytes()
    return {at // PAGE + 1: data[at : at + PAGE] for at in range(0, len(data), PAGE)}


def differing(path: Path, tail: WalTail, known: dict[int, bytes], **options: Any) -> list[int]:
    """Pages that are not as `known`."""
    with compare(
        str(path),
        lambda number: page_checksum(number, known[number]) if number in known else 0,
        known_size=(PAGE, len(known)),
        overlay=tail.overlay(),
        **options,
    ) as changed:
        assert changed.commit == len(image(path))
        return sorted(number for number, _ in changed.pages)


@pytest.mark.parametrize("walk", [1, 5 * PAGE, 1 << 20])
@pytest.mark.parametrize("behind", [0, 50])
def test_wal_when_too_much_of_it_waits_then_it_is_taken_as_one_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch, walk: int, behind: int
) -> None:
    """The state is the same as after all of them, one by one; the next is one by itself again."""
    monkeypatch.setattr(wal_frames, "WALK_BYTES", walk)
    monkeypatch.setattr("litemq.fs.wal_tail.RECOVER_BYTES", 0)
    wal, recovery = f"{path}-wal", path.parent / "recovery"
    resume = None
    pages: dict[int, bytes] = {}
    if behind:
        with closing(WalTail(wal, None)) as tail:
            assert tail.open()
            monkeypatch.setattr("litemq.fs.wal_tail.READ_BYTES", 1)
            for _ in range(behind):
                (commit,) = tail.collect(chain=True)
                pages.update(commit.pages)
            resume = tail.position()
    with closing(WalTail(wal, resume, recovery=recovery, backlog_bytes=100 * PAGE)) as tail:
        assert tail.open()
        (commit,) = tail.collect(chain=True)
        pages.update(commit.pages)
        assert tail.collect(chain=True) == []
        expected = image(path)
        assert commit.n_pages == len(expected)
        found = {number: pages[number] for number in expected if number in pages}
        assert found == {number: expected[number] for number in found}
        assert not tail.forget_what_recovery_forgets()
        assert differing(path, tail, expected) == []
        assert differing(path, tail, expected, logged_from=tail.resumed) == []
        with closing(WalTail(wal, tail.position(), recovery=recovery)) as later:
            assert later.open()
            assert later.collect(chain=True) == []
            assert later.resumed == len(Path(wal).read_bytes()) // (PAGE + 24)


def test_comparison_when_some_frames_are_known_then_those_before_are_looked_at(path: Path) -> None:
    """With pages of the file itself, which no frame has."""
    expected = image(path)
    with closing(WalTail(f"{path}-wal", None)) as tail:
        assert tail.open()
        while tail.collect(chain=True):
            pass
        overlay = tail.overlay()
        assert overlay is not None
        assert dict(overlay.images()) == {n: expected[n] for n in overlay.numbers}
        of_frames = list(overlay.images())
        half = overlay.last // 2
        early = dict(overlay.images(half))
        assert 0 < len(early) < len(of_frames)
        nothing = dict.fromkeys(expected, bytes(PAGE))
        assert differing(path, tail, nothing) == sorted(expected)
        with_file = {n for n in expected if not overlay.has(n)}
        assert differing(path, tail, nothing, logged_from=half) == sorted({*early, *with_file})
        everything = differing(path, tail, nothing, logged_from=half, everything=True)
        assert everything == sorted(expected)


def test_wal_when_it_is_at_rest_then_it_is_read_in_large_pieces(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what was logged before, and for what is taken now: no call for each of its frames."""
    pread, reads = os.pread, 0

    def counting(fd: int, size: int, offset: int) -> bytes:
        nonlocal reads
        reads += os.readlink(f"/proc/self/fd/{fd}").endswith("-wal")
        return pread(fd, size, offset)

    expected, wal = image(path), f"{path}-wal"
    frames = os.path.getsize(wal) // (PAGE + 24)
    monkeypatch.setattr(os, "pread", counting)
    monkeypatch.setattr("litemq.fs.wal_tail.RECOVER_BYTES", 0)
    resume = None
    for _ in range(2):
        reads = 0
        recovery = path.parent / "recovery"
        with closing(WalTail(wal, resume, recovery=recovery, backlog_bytes=100 * PAGE)) as tail:
            assert tail.open()
            for commit in tail.collect(chain=True):
                assert len(list(commit.pages)) > 100
            assert not tail.forget_what_recovery_forgets()
            assert differing(path, tail, expected, logged_from=tail.resumed) == []
            resume = tail.position()
        assert reads < frames / 10


@pytest.mark.parametrize("spoil", ["cut", "overwrite"])
def test_wal_when_it_changes_while_it_is_read_then_nothing_is_made_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    """It is looked at again."""
    monkeypatch.setattr(wal_frames, "WALK_BYTES", PAGE)
    wal = Path(f"{path}-wal")
    with closing(WalTail(str(wal), None)) as tail:
        assert tail.open()
        while tail.collect(chain=True):
            pass
        overlay = tail.overlay()
        assert overlay is not None
        images = overlay.images()
        next(images)
        if spoil == "cut":
            os.truncate(wal, wal.stat().st_size // 2)
        else:
            with open(wal, "r+b") as file:
                file.seek(wal.stat().st_size // 2)
                file.write(b"x" * (wal.stat().st_size // 2))
        with pytest.raises(FormatError):
            list(images)
