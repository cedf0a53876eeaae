"""A transaction too large for a record: the log starts anew behind it, and forgets nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from litemq.errors import StorageError
from litemq.transport.frames import MAX_FRAME_BYTES
from litemq.txlog import ltx
from litemq.txlog.checksums import EMPTY, fold, lock_page, page_checksum
from litemq.txlog.new_start import LARGEST_RECORD_BYTES
from litemq.txlog.segment_reader import SegmentReader
from litemq.txlog.store import DatabaseLog

OpenLog = Callable[..., DatabaseLog]
SIZE = 65536
MOST = LARGEST_RECORD_BYTES // SIZE


def image(number: int, seed: int = 0) -> bytes:
    return (number * 1000 + seed).to_bytes(8, "big") * (SIZE // 8)


def images(last: int, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    return ((number, image(number, seed)) for number in range(1, last + 1))


def total(pages: dict[int, bytes]) -> int:
    checksum = EMPTY
    for number, data in pages.items():
        checksum = fold(checksum, 0, page_checksum(number, data))
    return checksum


def prepare(
    log: DatabaseLog, pages: Iterator[tuple[int, bytes]], commit: int, wal: tuple[int, ...] = ()
) -> bytes | None:
    return log.prepare(1, pages, commit=commit, page_size=SIZE, timestamp_ms=1, wal=wal or None)  # type: ignore[arg-type]


def about_to_start_anew(open_log: OpenLog) -> DatabaseLog:
    """With a small transaction in the log, and one prepared that is too large."""
    log = open_log()
    prepare(log, images(2), 2)
    log.flush()
    prepare(log, images(MOST + 1, 1), MOST + 1)
    return log


def records(log: DatabaseLog) -> list[int]:
    reader = SegmentReader(log.directory / "log")
    first, last = reader.range()
    return [first, last] if first else []


def test_record_when_it_is_the_largest_then_it_fits_into_a_message(open_log: OpenLog) -> None:
    """Of pages that can't be compressed, and so many of them that the rest of it counts most."""
    log = open_log()
    count = LARGEST_RECORD_BYTES // 512
    noise = os.urandom(512 + count)
    pages = ((number, noise[number : number + 512]) for number in range(1, count + 1))
    record = log.prepare(1, pages, commit=count, page_size=512, timestamp_ms=1)
    assert record
    assert LARGEST_RECORD_BYTES < len(record) < MAX_FRAME_BYTES - 65536


def test_transaction_when_it_is_larger_then_the_log_starts_anew_behind_it(
    open_log: OpenLog,
) -> None:
    """TXIDs and checksums go on; what was prepared before needs no record any more."""
    log = open_log()
    assert prepare(log, images(3), 3)
    log.flush()
    assert prepare(log, iter([(2, image(2, 7))]), 3)
    assert prepare(log, images(MOST + 10, 1), MOST + 10) == b""
    state = dict(images(MOST + 10, 1))
    assert (log.head.txid, log.head.checksum) == (3, total(state))
    assert log.page_checksum(5) == page_checksum(5, state[5])
    assert log.starts_anew
    assert log.flush() == []
    assert not log.starts_anew
    assert records(log) == []
    state[4] = image(4, 2)
    assert prepare(log, iter([(4, state[4])]), MOST + 10)
    (record,) = log.flush()
    assert ltx.peek(record).pre_checksum == log.state.base.checksum
    assert records(log) == [4, 4]
    log.close(clean=False)
    log = open_log()
    assert log.trusted
    assert (log.head.txid, log.head.checksum, log.n_pages) == (4, total(state), MOST + 10)
    assert prepare(log, iter([(4, state[4])]), MOST + 10) is None


def test_transaction_when_it_follows_before_the_flush_then_it_is_a_record(
    open_log: OpenLog,
) -> None:
    """Also one that cuts the database, and another that is too large."""
    log = open_log()
    assert prepare(log, images(MOST + 5), MOST + 5) == b""
    assert prepare(log, iter([(1, image(1, 9))]), MOST)
    state = {**dict(images(MOST)), 1: image(1, 9)}
    assert log.head.checksum == total(state)
    (record,) = log.flush()
    assert ltx.decode(record).post_checksum == total(state)
    assert prepare(log, images(MOST + 5, 1), MOST + 5) == b""
    assert prepare(log, images(MOST + 6, 2), MOST + 6) == b""
    log.flush()
    log.close(clean=True)
    log = open_log()
    assert (log.trusted, log.head.txid) == (True, 4)
    assert log.head.checksum == total(dict(images(MOST + 6, 2)))


def test_transaction_when_it_is_large_and_changes_nothing_then_it_is_none(
    open_log: OpenLog,
) -> None:
    """The log stays as it is."""
    log = open_log()
    prepare(log, images(MOST + 1), MOST + 1)
    log.flush()
    assert prepare(log, images(MOST + 1), MOST + 1) is None
    assert not log.starts_anew
    assert log.head.txid == 1


def test_first_transaction_when_pages_were_never_written_then_they_are_zeros(
    open_log: OpenLog,
) -> None:
    """As in a record; and page 1 must be there."""
    log = open_log()
    with pytest.raises(ValueError, match="page 1 is missing"):
        prepare(log, iter([(2, image(2))]), 2 * MOST)
    commit = lock_page(SIZE) + 1
    assert prepare(log, iter([(1, image(1))]), commit) == b""
    assert log.page_checksum(2) == page_checksum(2, bytes(SIZE))
    assert log.page_checksum(lock_page(SIZE)) == 0
    log.flush()
    assert log.n_pages == commit


def test_pages_when_they_come_one_by_one_then_few_are_in_memory(open_log: OpenLog) -> None:
    """Those of the largest record, and no more."""
    alive = most = 0

    class Image(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def come() -> Iterator[tuple[int, bytes]]:
        nonlocal alive, most
        for number, data in images(4 * MOST):
            alive += 1
            most = max(most, alive)
            yield number, Image(data)

    assert prepare(open_log(), come(), 4 * MOST) == b""
    assert most <= MOST + 3


def test_disk_when_it_is_full_then_the_new_start_waits(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays prepared, with what came behind it, and a later flush makes it so."""
    log = about_to_start_anew(open_log)
    prepare(log, iter([(2, image(2, 5))]), MOST + 1)
    head = log.head

    def refuse(*_: object) -> None:
        raise StorageError("the disk is full", 28)

    for name in ("reserve", "sync"):
        with monkeypatch.context() as patch:
            patch.setattr(log.checksums, name, refuse)
            with pytest.raises(StorageError):
                log.flush()
        assert log.head == head
        assert log.starts_anew
    assert len(log.flush()) == 1
    assert records(log) == [3, 3]
    log.close(clean=False)
    assert open_log().head == head


def test_writer_when_it_dies_on_the_way_then_the_database_is_to_be_compared(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the old log or an empty one that is not trusted, never with half of it."""
    log = about_to_start_anew(open_log)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log.checksums, "sync", die)
    with pytest.raises(KeyboardInterrupt):
        log.flush()
    monkeypatch.undo()
    log.close(clean=False)
    log = open_log()
    assert not log.trusted
    assert records(log) == []
    assert log.head.txid == 2
    assert prepare(log, images(MOST + 1, 1), MOST + 1) in (b"", None)
    log.flush()
    log.mark_trusted()
    assert log.head.checksum == total(dict(images(MOST + 1, 1)))


def test_capture_when_the_log_started_anew_then_it_is_known_where_to_go_on(
    open_log: OpenLog,
) -> None:
    """No record says so; state.json does, as long as nothing follows."""
    log = open_log()
    prepare(log, images(MOST + 1), MOST + 1, wal=(11, 22, 32, 4096))
    log.flush()
    log.close(clean=False)
    log = open_log()
    assert (log.state.captured, log.state.captured_txid) == ([11, 22, 32, 4096], 1)
    assert log.last_header is None
    prepare(log, islice(images(1, 5), 1), MOST + 1)
    assert log.state.captured_txid != log.head.txid
