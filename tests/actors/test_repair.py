"""A repair under way: pages and records in, one state out, or none at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
import lz4.block
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litemq.actors.repair import Repair
from litemq.errors import FormatError
from litemq.transport.messages import Head, WirePosition
from litemq.txlog import ltx
from litemq.txlog.checksums import CHECKSUM_FLAG, EMPTY, page_checksum
from litemq.txlog.ltx import Header
from litemq.txlog.position import Position

SIZE = 512
Pages = dict[int, bytes]


def page(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(8).ljust(size, b"\0")


def sums(pages: Pages, size: int) -> bytes:
    """8 bytes for each of the pages 1 to `size`."""
    found = [page_checksum(n, pages[n]) if n in pages else 0 for n in range(1, size + 1)]
    return b"".join(each.to_bytes(8, "big") for each in found)


def total(pages: Pages) -> int:
    result = EMPTY
    for number, data in pages.items():
        result ^= page_checksum(number, data) & ~CHECKSUM_FLAG
    return result


def head(pages: Pages, size: int, *, page_size: int = SIZE, txid: int = 9) -> Head:
    return Head("a.db", WirePosition.of(Position(1, txid, total(pages))), page_size, size, 0)


def record(before: Pages, after: Pages, size: int, txid: int, *, page_size: int = SIZE) -> bytes:
    """The transaction that makes `after` of `before`; after a change of page size it holds all."""
    changed = sorted((n, data) for n, data in after.items() if before.get(n) != data)
    header = Header(page_size, size, txid, txid, 1, total(before))
    return ltx.encode(header, changed, total(after))


def packed(pages: Pages) -> bytes:
    joined = b"".join(pages[number] for number in sorted(pages))
    return bytes(lz4.block.compress(joined, store_size=False))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Repair]]:
    """Begins repairs of a replica that has these pages; all are closed at the end."""
    begun: list[Repair] = []

    def begin_(mine: Pages | None = None, size: int = 0, *, page_size: int = SIZE) -> Repair:
        repair = Repair(tmp_path, page_size, sums(mine or {}, size))
        begun.append(repair)
        return repair

    yield begin_
    for repair in begun:
        repair.close()


def test_pages_when_all_that_differ_have_come_then_the_state_is_whole(
    begin: Callable[..., Repair],
) -> None:
    """The others count as they are; only what came is written."""
    theirs = {n: page(n) for n in range(1, 6)}
    repair = begin({**theirs, 2: page(77), 4: page(78)}, 5)
    repair.add_pages(SIZE, [2, 4], packed({2: theirs[2], 4: theirs[4]}))
    assert repair.finish(head(theirs, 5)) == sums(theirs, 5)
    assert list(repair.pages()) == [(2, theirs[2]), (4, theirs[4])]
    assert (repair.count, repair.page1()) == (2, None)


def test_pages_when_one_is_missing_or_wrong_then_nothing_may_be_applied(
    begin: Callable[..., Repair],
) -> None:
    """The sum says so, whatever the pages look like."""
    theirs = {n: page(n) for n in range(1, 6)}
    for sent in ({2: theirs[2]}, {2: theirs[2], 4: page(5)}, {2: theirs[3], 4: theirs[4]}):
        repair = begin({**theirs, 2: page(77), 4: page(78)}, 5)
        repair.add_pages(SIZE, sorted(sent), packed(sent))
        with pytest.raises(FormatError, match="add up"):
            repair.finish(head(theirs, 5))


def test_replica_when_it_is_empty_then_it_gets_a_snapshot(begin: Callable[..., Repair]) -> None:
    """A page that SQLite never wrote is neither sent nor missed."""
    theirs = {1: page(1), 2: page(2), 5: page(5)}
    repair = begin(page_size=0)
    repair.add_pages(SIZE, [1, 2], packed({1: theirs[1], 2: theirs[2]}))
    repair.add_pages(SIZE, [5], packed({5: theirs[5]}))
    assert repair.finish(head(theirs, 6)) == sums(theirs, 6)
    assert repair.page1() == theirs[1]


def test_replica_when_it_is_longer_than_the_primary_then_the_rest_is_cut(
    begin: Callable[..., Repair],
) -> None:
    """Nothing has to be sent for it."""
    theirs = {1: page(1), 2: page(2)}
    repair = begin({**theirs, 3: page(3), 4: page(4)}, 4)
    assert repair.finish(head(theirs, 2)) == sums(theirs, 2)
    assert list(repair.pages()) == []


def test_page_size_when_it_is_another_then_nothing_of_the_replica_counts(
    begin: Callable[..., Repair],
) -> None:
    """By the primary's pages, and by a record that came meanwhile."""
    small = {n: page(n) for n in range(1, 5)}
    large = {n: page(n, 1024) for n in range(1, 3)}
    repair = begin(small, 4)
    repair.add_pages(1024, [1, 2], packed(large))
    assert repair.finish(head(large, 2, page_size=1024)) == sums(large, 2)
    repair = begin({**small, 3: page(9)}, 4)
    repair.add_pages(SIZE, [3], packed({3: small[3]}))
    header = Header(1024, 2, 9, 9, 1, total(small))
    repair.add_record(ltx.encode(header, sorted(large.items()), total(large)))
    assert repair.finish(head(large, 2, page_size=1024)) == sums(large, 2)
    assert list(repair.pages()) == sorted(large.items())


def test_database_when_dropped_and_made_anew_meanwhile_then_only_the_new_one_counts(
    begin: Callable[..., Repair],
) -> None:
    """A record of size 0, then records from nothing on."""
    old = {n: page(n) for n in range(1, 5)}
    new = {1: page(50), 2: page(51)}
    repair = begin()
    repair.add_pages(SIZE, [1, 2, 3, 4], packed(old))
    repair.add_record(ltx.encode(Header(SIZE, 0, 8, 8, 1, total(old)), (), EMPTY))
    assert repair.count == 0
    repair.add_record(record({}, new, 2, 9))
    assert repair.finish(head(new, 2)) == sums(new, 2)
    assert list(repair.pages()) == sorted(new.items())


def test_database_when_dropped_meanwhile_then_the_end_is_no_page(
    begin: Callable[..., Repair],
) -> None:
    """The head has no pages, and the checksum of none."""
    old = {1: page(1), 2: page(2)}
    repair = begin()
    repair.add_pages(SIZE, [1, 2], packed(old))
    repair.add_record(ltx.encode(Header(SIZE, 0, 8, 8, 1, total(old)), (), EMPTY))
    assert repair.finish(head({}, 0)) == b""
    assert list(repair.pages()) == []


@pytest.mark.parametrize("page_size", [0, 511, 65537, 1 << 31])
def test_page_size_when_impossible_then_it_is_refused(
    begin: Callable[..., Repair], page_size: int
) -> None:
    """Before memory is asked for."""
    with pytest.raises(FormatError, match="page size"):
        begin().add_pages(page_size, [1], b"")


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, packed({1: page(1)})[:-1]])
def test_pages_when_they_cannot_be_decompressed_then_that_is_said(
    begin: Callable[..., Repair], data: bytes
) -> None:
    """Noise and halves."""
    with pytest.raises(FormatError):
        begin().add_pages(SIZE, [1], data)


def test_pages_when_they_are_fewer_than_their_numbers_then_they_are_refused(
    begin: Callable[..., Repair],
) -> None:
    """No page is ever made up of nothing."""
    with pytest.raises(FormatError, match="bytes for 2 pages"):
        begin().add_pages(SIZE, [1, 2], packed({1: page(1)}))


def test_record_when_damaged_then_it_is_refused(begin: Callable[..., Repair]) -> None:
    """As anywhere else."""
    good = bytearray(record({}, {1: page(1)}, 1, 2))
    good[-1] ^= 1
    with pytest.raises(FormatError):
        begin().add_record(bytes(good))


def test_repair_when_it_ends_anyhow_then_its_file_is_gone(tmp_path: Path) -> None:
    """It never had a name that a killed process could leave behind."""
    repair = Repair(tmp_path, SIZE, b"")
    repair.add_pages(SIZE, [1], packed({1: page(1)}))
    assert repair.page1() == page(1)
    assert list(tmp_path.iterdir()) == []
    repair.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 32))
def test_pages_when_read_at_different_moments_then_the_redo_makes_one_state_of_them(
    begin: Callable[..., Repair], seed: int
) -> None:
    """The primary goes on writing, growing and shrinking while its pages are read."""
    chance = random.Random(seed)
    size = chance.randrange(1, 12)
    now: Pages = {n: page(chance.randrange(99)) for n in range(1, size + 1)}
    mine = {n: data for n, data in now.items() if chance.random() < 0.6}
    repair = begin(mine, len(mine) and max(mine))
    wanted = [n for n in now if mine.get(n) != now[n]]
    records: list[bytes] = []
    txid = 9
    while wanted or chance.random() < 0.6:
        if chance.random() < 0.5:
            before, txid = dict(now), txid + 1
            size = chance.randrange(1, 12)
            now = {n: data for n, data in now.items() if n <= size}
            for number in range(1, size + 1):
                if number not in now or chance.random() < 0.2:
                    now[number] = page(chance.randrange(99))
            if now != before:
                records.append(record(before, now, size, txid))
            else:
                txid -= 1
        elif wanted:
            some, wanted = wanted[:3], wanted[3:]
            read = {n: now[n] for n in some if n in now}
            repair.add_pages(SIZE, sorted(read), packed(read))
    for each in records:
        repair.add_record(each)
    assert repair.finish(head(now, size, txid=txid)) == sums(now, size), f"seed {seed}"
    result = {n: data for n, data in mine.items() if n <= size} | dict(repair.pages())
    assert result == now
