"""One database's log: the chain of transactions holds, whatever changes and whenever the writer
dies.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litemq.errors import FormatError, GapError, StorageError
from litemq.txlog import archive, ltx
from litemq.txlog import state as states
from litemq.txlog.checksums import EMPTY, PageChecksums, fold, page_checksum
from litemq.txlog.position import ZERO, Position
from litemq.txlog.segment_reader import SegmentReader
from litemq.txlog.store import DatabaseLog

OpenLog = Callable[..., DatabaseLog]
Page = Callable[..., bytes]


def commit(log: DatabaseLog, pages: dict[int, bytes], size: int, epoch: int = 1) -> bytes | None:
    return log.prepare(epoch, list(pages.items()), commit=size, page_size=512, timestamp_ms=1)


def checksum_of(pages: dict[int, bytes]) -> int:
    total = EMPTY
    for pgno, data in pages.items():
        total = fold(total, 0, page_checksum(pgno, data))
    return total


def records_in(log: DatabaseLog) -> list[bytes]:
    return list(archive.records_of(SegmentReader(log.directory / "log")))


def three_commits(log: DatabaseLog, page: Page) -> None:
    for n in range(3):
        commit(log, {1: page(n), 2: page(n + 50), 3: page(99)}, 3)
        log.flush()


# A history: each step writes some pages (or drops the database) and sets its size; a step may
# change the page size.
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(1, 12), st.integers(0, 3), max_size=5),
        st.integers(0, 12),
        st.sampled_from([512, 512, 512, 1024]),
        st.sampled_from(["flush", "flush", "hold", "reopen"]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_history_when_logged_then_a_replica_ends_in_the_same_state(
    steps: list[tuple[dict[int, int], int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Growth, shrinking, holes, drops, page sizes, groups and reopens: every checksum is that of
    the pages, and a second log fed with the records, and a restored file, agree.
    """
    root = tmp_path_factory.mktemp("log")
    log = DatabaseLog.open(root / "a", segment_bytes=2000, node_id=1)
    replica = DatabaseLog.open(root / "b", segment_bytes=3000, node_id=2)
    model: dict[int, bytes] = {}
    page_size = 0
    for writes, size, new_page_size, then in steps:
        pages = {
            pgno: bytes([value]) * new_page_size for pgno, value in writes.items() if pgno <= size
        }
        fresh = new_page_size != page_size or log.head.txid == 0
        if fresh and size:
            pages.setdefault(1, bytes(new_page_size))
        record = log.prepare(
            1, list(pages.items()), commit=size, page_size=new_page_size, timestamp_ms=5
        )
        if size:
            page_size = new_page_size
            if fresh:
                model = {n: bytes(page_size) for n in range(1, size + 1)}
            model = {n: data for n, data in {**model, **pages}.items() if n <= size}
        else:
            model = {}
        if record is not None:
            assert ltx.decode(record).post_checksum == checksum_of(model) == log.head.checksum
            replica.append_record(record, 1)
        assert log.n_pages == size
        if then == "hold":
            continue
        log.flush()
        assert log.checksums.total() == checksum_of(model)
        if then == "reopen":
            replica.flush()
            before = log.head
            log.close(clean=False)
            log = DatabaseLog.open(root / "a", segment_bytes=2000, node_id=1)
            assert (log.head, log.trusted, log.torn_bytes) == (before, True, 0)
    log.flush()
    replica.flush()
    assert replica.head == log.head
    assert replica.checksums.read(1, 99) == log.checksums.read(1, 99)
    assert records_in(replica) == records_in(log)
    target = root / "restored"
    assert archive.restore(records_in(log), target).txid == log.head.txid
    expected = b"".join(model.get(n, bytes(page_size)) for n in range(1, log.n_pages + 1))
    assert target.read_bytes() == expected
    for one in (log, replica):
        one.close(clean=True)


def test_a_commit_when_nothing_changed_then_makes_no_record(open_log: OpenLog, page: Page) -> None:
    """A rollback, the lock page, and pages beyond the end leave the head where it is."""
    log = open_log()
    commit(log, {1: page(1), 2: page(2)}, 2)
    head = log.head
    assert commit(log, {1: page(1)}, 2) is None
    assert commit(log, {}, 2) is None
    assert commit(log, {3: page(3)}, 2) is None
    assert log.head == head
    record = commit(log, {1: page(1), 2: page(9), 3: page(3)}, 2)
    assert record is not None
    assert [pgno for pgno, _ in ltx.decode(record).pages] == [2]
    assert log.pending_bytes == sum(map(len, log.flush())) > 0
    assert (log.pending_bytes, log.flush()) == (0, [])


def test_the_lock_page_when_written_then_is_left_out(tmp_path: Path, page: Page) -> None:
    """The page that holds SQLite's locks is never in a record."""
    log = DatabaseLog.open(tmp_path / "db", segment_bytes=1 << 20, node_id=1)
    lock = (1 << 30) // 65536 + 1
    log.prepare(1, [(1, bytes(65536))], commit=lock + 1, page_size=65536, timestamp_ms=0)
    data = page(1, 65536)
    record = log.prepare(
        1, [(lock, data), (lock + 1, data)], commit=lock + 1, page_size=65536, timestamp_ms=0
    )
    assert record is not None
    assert [pgno for pgno, _ in ltx.decode(record).pages] == [lock + 1]
    assert log.page_checksum(lock) == 0
    log.close(clean=False)


def test_the_wal_position_when_given_then_is_there_after_a_restart(
    open_log: OpenLog, page: Page
) -> None:
    """The resume point of the capture is in the last record's header."""
    log = open_log()
    assert log.last_header is None
    log.prepare(1, [(1, page(1))], commit=1, page_size=512, timestamp_ms=3, wal=(11, 22, 32, 536))
    log.flush()
    header = open_log().last_header
    assert header is not None
    assert (header.wal_salt1, header.wal_salt2) == (11, 22)
    assert (header.wal_offset, header.wal_size, header.node_id) == (32, 536, 7)


def test_a_record_when_it_does_not_follow_then_is_a_gap(open_log: OpenLog, page: Page) -> None:
    """Wrong TXID, other history, older epoch, wrong result: refused, and the head stays."""
    log, other = open_log(), open_log("other")
    first = commit(log, {1: page(1)}, 1, epoch=5)
    second = commit(log, {1: page(2)}, 1, epoch=5)
    third = commit(log, {1: page(3)}, 1, epoch=5)
    assert first
    assert second
    assert third
    with pytest.raises(GapError):
        other.append_record(second, 5)
    other.append_record(first, 5)
    for record in (first, third):
        with pytest.raises(GapError):
            other.append_record(record, 5)
    with pytest.raises(GapError):
        other.append_record(second, 4)
    foreign = ltx.encode(ltx.Header(512, 1, 2, 2, 0, EMPTY | 9), [(1, page(2))], EMPTY | 1)
    with pytest.raises(GapError):
        other.append_record(foreign, 5)
    liar = ltx.encode(ltx.Header(512, 1, 2, 2, 0, other.head.checksum), [(1, page(2))], EMPTY | 1)
    with pytest.raises(FormatError):
        other.append_record(liar, 5)
    with pytest.raises(FormatError):
        other.append_record(second[:-1] + b"\0", 5)
    assert other.head.txid == 1
    other.append_record(second, 6)
    assert other.head == Position(6, 2, ltx.post_checksum_of(second))
    with pytest.raises(GapError):
        commit(other, {1: page(7)}, 1, epoch=5)
    other.flush()
    assert open_log("other").epochs.to_list() == [(5, 1), (6, 2)]


@pytest.mark.parametrize("group", [1, 2, 20])
@pytest.mark.parametrize("applied", [0, 1, 3])
def test_a_writer_when_killed_after_the_append_then_the_checksums_are_redone(
    open_log: OpenLog, page: Page, monkeypatch: pytest.MonkeyPatch, group: int, applied: int
) -> None:
    """The records are in the log, pages.sum is not, or in part: opening brings it to the head."""
    log = open_log()
    three_commits(log, page)
    for n in range(group):
        commit(log, {1: page(n + 100), 2: page(n + 200), 4: page(n)}, 4 if n % 3 else 2)

    def die(self: DatabaseLog) -> None:
        sums = self.checksums
        sums.resize(self.n_pages)
        for pgno in range(1, min(applied, self.n_pages) + 1):
            sums.set(pgno, log.page_checksum(pgno))
        raise KeyboardInterrupt

    monkeypatch.setattr(log._staged, "write", lambda: die(log))
    with pytest.raises(KeyboardInterrupt):
        log.flush()
    again = open_log()
    assert (again.head, again.trusted) == (log.head, True)
    assert again.checksums.total() == again.head.checksum
    assert commit(again, {1: page(group + 99)}, again.n_pages) is None, "page 1 is known"


def test_a_log_when_torn_then_reopens_at_the_last_whole_record(
    open_log: OpenLog, page: Page
) -> None:
    """Every length of the last record: the head is the record before it, and its checksums fit or
    are given up.
    """
    log = open_log()
    three_commits(log, page)
    head_before = log.head
    size = next((log.directory / "log").glob("*.seg")).stat().st_size
    record = commit(log, {2: page(7)}, 3)
    assert record is not None
    for cut in range(0, len(record), 17):
        segment = next((log.directory / "log").glob("*.seg"))
        os.truncate(segment, size)
        with segment.open("ab") as file:
            file.write(record[:cut])
        again = open_log()
        assert (again.head, again.torn_bytes, again.trusted) == (head_before, cut, True)
        again.close(clean=False)


def test_a_group_when_torn_then_only_checksums_that_the_log_lost_are_doubted(
    open_log: OpenLog, page: Page
) -> None:
    """A killed writer has not changed them yet. Who cut the log later took away what they show."""
    log = open_log()
    three_commits(log, page)
    sums = log.directory / "pages.sum"
    segment = next((log.directory / "log").glob("*.seg"))
    whole, before = segment.stat().st_size, sums.read_bytes()
    lengths = []
    for n in range(5):
        size = 3 + (n * 2) % 5
        record = commit(log, {1: page(100 + n), size: page(200 + n)}, size)
        assert record is not None
        lengths.append(len(record))
    log.flush()
    after, records = sums.read_bytes(), segment.read_bytes()[whole:]
    assert after != before
    log.close(clean=False)
    for length in range(1, len(records), 61):
        for stands, trusted in ((before, True), (after, False)):
            segment.write_bytes(segment.read_bytes()[:whole] + records[:length])
            sums.write_bytes(stands)
            again = open_log()
            assert (again.torn_bytes > 0, again.trusted) == (True, trusted)
            kept = again.head.txid - 3
            assert sum(lengths[:kept]) + again.torn_bytes == length
            if trusted:
                assert again.checksums.total() == again.head.checksum
            again.state.suspect = False
            again.save_state()
            again.close(clean=False)


def lose_power(log: DatabaseLog) -> None:
    """As if another boot had written the state."""
    log.close(clean=False)
    state = states.load(log.directory)
    assert state is not None
    state.boot_id = "another boot"
    state.save(log.directory)


def test_checksums_after_a_power_loss_when_not_closed_cleanly_then_are_not_trusted(
    open_log: OpenLog, page: Page
) -> None:
    """The doubt outlives further restarts, until the caller has compared everything."""
    log = open_log()
    assert log.trusted
    three_commits(log, page)
    lose_power(log)
    for _ in range(2):
        log = open_log()
        assert not log.trusted
        assert log.checksums.total() == log.head.checksum
        log.close(clean=True)
    log = open_log()
    record = commit(log, {1: page(2), 2: page(66), 3: page(99)}, 3)
    assert record is not None
    assert [pgno for pgno, _ in ltx.decode(record).pages] == [2], "a rescan logs what differs"
    with pytest.raises(ValueError, match="flushed"):
        log.mark_trusted()
    log.flush()
    log.mark_trusted()
    assert log.trusted
    assert open_log().trusted


def test_checksums_after_a_clean_close_when_the_machine_restarts_then_are_trusted(
    open_log: OpenLog, page: Page
) -> None:
    """A clean close has synced everything."""
    log = open_log()
    three_commits(log, page)
    log.close(clean=True)
    state = states.load(log.directory)
    assert state is not None
    assert state.clean
    state.boot_id = "another boot"
    state.save(log.directory)
    assert open_log().trusted


def test_checksums_when_damaged_then_are_thrown_away_and_all_pages_needed(
    open_log: OpenLog, page: Page
) -> None:
    """Wrong checksums never reach a record: the next one holds every page, the chain holds."""
    log = open_log()
    commit(log, {n: page(n) for n in range(1, 30)}, 29)
    log.flush()
    for n in range(5):
        commit(log, {1: page(n + 100)}, 29)
        log.flush()
    log.close(clean=True)
    sums = PageChecksums(log.directory / "pages.sum", 29)
    sums.set(20, EMPTY | 4)
    sums.close()
    (log.directory / "log").joinpath("x").write_bytes(b"")
    log = open_log()
    # everything is still in the log, so redoing it repairs even this
    assert log.trusted
    first = log.head
    log.close(clean=True)
    # without the record that holds page 20, it cannot
    lone = open_log("lone")
    lone.reset(first, 512, 29, log_sums(log))
    commit(lone, {1: page(500)}, 29)
    lone.flush()
    lone.close(clean=True)
    sums = PageChecksums(lone.directory / "pages.sum", 29)
    sums.set(20, EMPTY | 4)
    sums.close()
    lone = open_log("lone")
    assert not lone.trusted
    with pytest.raises(ValueError, match="page 3 is missing"):
        commit(lone, {1: page(1), 2: page(2)}, 29)
    with pytest.raises(ValueError, match="compar"):
        lone.mark_trusted()
    pre = lone.head.checksum
    record = commit(lone, {n: page(n) for n in range(1, 30)}, 29)
    assert record is not None
    transaction = ltx.decode(record)
    assert (len(transaction.pages), transaction.header.pre_checksum) == (29, pre)
    assert transaction.post_checksum == checksum_of({n: page(n) for n in range(1, 30)})
    lone.flush()
    lone.mark_trusted()
    assert open_log("lone").trusted


def log_sums(log: DatabaseLog) -> bytes:
    return (log.directory / "pages.sum").read_bytes()[: log.n_pages * 8]


def test_a_replica_when_its_checksums_are_lost_then_takes_no_record(
    open_log: OpenLog, page: Page
) -> None:
    """It asks for a repair (GapError) instead of folding unknown checksums."""
    primary, replica = open_log("primary"), open_log("replica")
    three_commits(primary, page)
    replica.reset(primary.head, 512, 3, primary.checksums.read(1, 3))
    replica.close(clean=True)
    (replica.directory / "pages.sum").unlink()
    replica = open_log("replica")
    assert not replica.trusted
    record = commit(primary, {1: page(77)}, 3)
    assert record is not None
    with pytest.raises(GapError, match="lost"):
        replica.append_record(record, 1)


def test_a_reset_when_done_then_the_log_starts_behind_the_position(
    open_log: OpenLog, page: Page
) -> None:
    """Old records are gone, the next one follows the new base, also after a reopen."""
    primary, replica = open_log("primary"), open_log("replica")
    three_commits(primary, page)
    primary.flush()
    three_commits(replica, page)
    with pytest.raises(FormatError):
        replica.reset(primary.head, 512, 3, bytes(24))
    with pytest.raises(FormatError):
        replica.reset(primary.head, 512, 3, bytes(23))
    assert replica.range == (1, 3)
    replica.reset(primary.head, 512, 3, primary.checksums.read(1, 3), primary.epochs)
    assert (replica.range, replica.head, replica.n_pages) == ((0, 0), primary.head, 3)
    replica.close(clean=False)
    replica = open_log("replica")
    assert (replica.head, replica.page_size, replica.trusted) == (primary.head, 512, True)
    record = commit(primary, {2: page(70)}, 3, epoch=2)
    assert record is not None
    replica.append_record(record, 2)
    replica.flush()
    replica = open_log("replica")
    assert (replica.head, replica.range) == (primary.head, (4, 4))
    assert replica.epochs.to_list() == primary.epochs.to_list() == [(1, 1), (2, 4)]
    replica.reset(ZERO, 0, 0, b"")
    assert (open_log("replica").head, replica.head.txid) == (ZERO, 0)


@pytest.mark.parametrize("dies_at", range(8))
def test_a_reset_when_killed_anywhere_then_the_log_is_old_or_empty_and_says_so(
    open_log: OpenLog, page: Page, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """After each step of a reset: no mixture of old records and the new base is ever taken for a
    log.
    """
    primary, replica = open_log("primary"), open_log("replica")
    three_commits(replica, page)
    old = replica.head
    commit(primary, {1: page(1)}, 1)
    primary.flush()
    steps = iter(range(100))

    def guard(target: object, name: str) -> None:
        original = getattr(target, name)

        def step(*args: object, **kwargs: object) -> object:
            if next(steps) == dies_at:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(target, name, step)

    guard(states.State, "save")
    guard(type(replica._segments), "reset")
    guard(PageChecksums, "resize")
    guard(PageChecksums, "write")
    guard(PageChecksums, "sync")
    finished = False
    try:
        replica.reset(primary.head, 512, 1, primary.checksums.read(1, 1))
        finished = True
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    replica = open_log("replica")
    if replica.head == old:
        assert replica.trusted
        assert replica.range == (1, 3)
    else:
        assert replica.head == primary.head
        assert replica.range == (0, 0)
        assert replica.trusted is finished
    assert finished is (dies_at == 7)


def test_a_full_disk_when_it_has_room_again_then_prepared_records_are_flushed(
    open_log: OpenLog, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On StorageError the head stays advanced and later commits chain on; pages.sum is not ahead of
    the log.
    """
    log = open_log()
    three_commits(log, page)
    on_disk = log.checksums.read(1, 9)
    full = True
    real = os.pwritev

    def pwritev(*args: object) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwritev", pwritev)
    for n in range(3):
        commit(log, {1: page(n + 10), 4: page(n)}, 4)
        with pytest.raises(StorageError) as caught:
            log.flush()
        assert caught.value.errno == 28
    assert (log.head.txid, log.range, log.checksums.read(1, 9)) == (6, (1, 3), on_disk)
    full = False
    assert [ltx.peek(record).min_txid for record in log.flush()] == [4, 5, 6]
    assert open_log().head == log.head


def test_retention_when_enforced_then_the_base_moves_and_the_log_reopens(
    open_log: OpenLog, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the process dies between moving the base and deleting, nothing but the oldest
    is gone.
    """
    log = open_log(segment_bytes=1000)
    for n in range(20):
        commit(log, {1: page(n), 2: page(99)}, 2, epoch=n // 4 + 1)
        log.flush()
    assert log.enforce_retention(0, 1e9, 1 << 30) == 0
    assert log.enforce_retention(0, 1e9, 4000) > 0
    first, last = log.range
    assert (first > 1, last) == (True, 20)
    assert log.state.base.txid == first - 1
    again = open_log(segment_bytes=1000)
    assert (again.head, again.range, again.trusted) == (log.head, (first, 20), True)
    assert again.head.epoch == 5
    monkeypatch.setattr(again._segments, "drop_before", lambda _: 0)
    again.enforce_retention(1e12, 1, 1 << 30)
    assert again.range == (first, 20)
    last_one = open_log(segment_bytes=1000)
    assert last_one.range[0] > first
    assert (last_one.head, last_one.trusted) == (log.head, True)


def test_a_log_when_it_is_not_the_one_of_its_state_then_is_refused(
    open_log: OpenLog, page: Page
) -> None:
    """A swapped or incomplete folder is named instead of being continued."""
    log = open_log(segment_bytes=1)
    three_commits(log, page)
    log.close(clean=True)
    for path in (log.directory / "log").glob(f"{1:016x}.*"):
        path.unlink()
    with pytest.raises(FormatError, match="starts with TXID 2"):
        open_log()


def test_a_log_when_its_state_is_lost_then_is_adopted_but_not_trusted(
    open_log: OpenLog, page: Page
) -> None:
    """The records say where it starts and ends; the epochs are gone, and everything has to be
    compared.
    """
    log = open_log()
    three_commits(log, page)
    log.close(clean=True)
    (log.directory / "state.json").unlink()
    again = open_log()
    assert again.head == Position(0, 3, log.head.checksum)
    assert (again.range, again.trusted) == ((1, 3), False)


def test_the_hot_path_when_the_pages_are_random_then_no_memory_is_kept(
    open_log: OpenLog,
) -> None:
    """After a flush nothing of the records stays in the log object."""
    log = open_log()
    rnd = random.Random(3)
    for _ in range(50):
        pages = [(n, rnd.randbytes(4096)) for n in range(1, 9)]
        log.prepare(1, pages, commit=8, page_size=4096, timestamp_ms=0)
        log.flush()
    assert not log._pending
    assert not log._staged._new
    assert not log._segments._index_backlog
