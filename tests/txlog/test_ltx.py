"""One record: what goes in comes out, and nothing that was changed on the way is taken for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from fastcrc.crc64 import go_iso
from hypothesis import given, settings
from hypothesis import strategies as st

from litemq.errors import FormatError
from litemq.txlog import ltx
from litemq.txlog.checksums import EMPTY, fold, lock_page, page_checksum
from litemq.txlog.ltx import Header

HEADER = Header(512, 9, 5, 5, 1_700_000_000_000, EMPTY | 77, 32, 536, 1, 2, 9)


@st.composite
def transactions(draw: st.DrawFn) -> tuple[Header, list[tuple[int, bytes]], int]:
    page_size = draw(st.sampled_from(sorted(ltx.PAGE_SIZES)))
    commit = draw(st.integers(1, ltx.MAX_PAGE_NO))
    numbers = draw(st.sets(st.integers(1, commit), max_size=4)) - {lock_page(page_size)}
    pages = []
    for pgno in sorted(numbers):
        head = draw(st.binary(max_size=200))
        noise = os.urandom(page_size) if draw(st.booleans()) else bytes(page_size)
        pages.append((pgno, (head + noise)[:page_size]))
    txid = draw(st.integers(2, (1 << 64) - 1))
    wal_offset = draw(st.integers(0, (1 << 63) - 1))
    wal = (wal_offset, 4120, *draw(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))))
    header = Header(
        page_size, commit, txid, txid, draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        draw(st.integers(EMPTY, (1 << 64) - 1)), *(wal if wal_offset else (0, 0, 0, 0)),
        draw(st.integers(0, (1 << 64) - 1)),
    )  # fmt: skip
    return header, pages, draw(st.integers(EMPTY, (1 << 64) - 1))


@settings(max_examples=200, deadline=None)
@given(transactions())
def test_a_transaction_when_encoded_and_decoded_then_is_the_same(
    given: tuple[Header, list[tuple[int, bytes]], int],
) -> None:
    """decode(encode(x)) == x; peek, measure and post_checksum_of agree with it."""
    header, pages, post_checksum = given
    record = ltx.encode(header, pages, post_checksum)
    decoded = ltx.decode(record)
    assert (decoded.header, list(decoded.pages), decoded.post_checksum) == given
    assert ltx.decode(memoryview(record)) == decoded
    padded = b"before" + record + b"after"
    assert ltx.peek(padded, 6) == header
    assert ltx.measure(padded, 6) == len(record)
    assert ltx.post_checksum_of(record) == post_checksum


@pytest.mark.parametrize("flips", [0x01, 0x80, 0xFF])
def test_any_byte_when_corrupted_then_the_record_is_refused(
    flips: int, page: Callable[..., bytes]
) -> None:
    """Every changed byte is detected; different LZ4 bytes of the same page are the same content."""
    pages = [(2, page(1)), (7, os.urandom(512)), (9, bytes(512))]
    record = ltx.encode(HEADER, pages, EMPTY | 5)
    original = ltx.decode(record)
    for at in range(len(record)):
        damaged = bytearray(record)
        damaged[at] ^= flips
        try:
            assert ltx.decode(damaged) == original, f"byte {at}"
        except FormatError:
            continue
        assert ltx.HEADER_SIZE < at < len(record) - 40, f"byte {at} is not compressed data"


@pytest.mark.parametrize("first", [False, True])
def test_two_random_bytes_when_corrupted_then_content_never_changes(
    first: bool, chain: Callable[..., list[bytes]]
) -> None:
    """Bursts of up to eight bytes anywhere never decode to something else."""
    record = chain(2)[0 if first else 1]
    original = ltx.decode(record)
    for at in range(len(record) - 8):
        damaged = bytearray(record)
        damaged[at : at + 8] = os.urandom(8)
        with suppress(FormatError):
            assert ltx.decode(damaged) == original


def test_a_record_when_cut_anywhere_then_is_truncated(page: Callable[..., bytes]) -> None:
    """Every prefix is known to be one: measure asks for more instead of calling it damage."""
    record = ltx.encode(HEADER, [(2, page(1)), (3, page(2))], EMPTY)
    for end in range(len(record)):
        with pytest.raises(ltx.TruncatedError):
            ltx.measure(record[:end])
        with pytest.raises(FormatError):
            ltx.decode(record[:end])
    with pytest.raises(FormatError):
        ltx.decode(record + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_strange_bytes_when_read_then_only_format_errors_come(data: bytes, magic: bool) -> None:
    """Bytes from a socket or a disk raise FormatError and nothing else."""
    data = ltx.MAGIC + data if magic else data
    for read in (ltx.decode, ltx.measure, ltx.peek, ltx.post_checksum_of):
        with suppress(FormatError):
            read(data)


@pytest.mark.parametrize(
    "change",
    [
        {"page_size": 1000},
        {"page_size": 131072},
        {"commit": 1 << 32},
        {"commit": 2},
        {"min_txid": 0},
        {"max_txid": 4},
        {"min_txid": 1},
        {"pre_checksum": 5},
        {"wal_offset": 0},
        {"wal_offset": -1},
        {"wal_size": 1 << 63},
        {"wal_salt1": 1 << 32},
        {"timestamp_ms": 1 << 63},
        {"node_id": -1},
        {"max_txid": 1 << 64},
    ],
)
def test_a_header_when_out_of_range_then_encode_refuses(
    change: dict[str, int], page: Callable[..., bytes]
) -> None:
    """encode makes nothing that decode would refuse."""
    with pytest.raises(FormatError):
        ltx.encode(replace(HEADER, **change), [(3, page(1))], EMPTY)


def test_pages_when_unsorted_misplaced_or_misshapen_then_encode_refuses(
    page: Callable[..., bytes],
) -> None:
    """Order, range, size and the lock page are checked."""
    data = page(1)
    lock = lock_page(512)
    big = replace(HEADER, commit=lock + 5)
    for header, pages in [
        (HEADER, [(3, data), (2, data)]),
        (HEADER, [(3, data), (3, data)]),
        (HEADER, [(0, data)]),
        (HEADER, [(10, data)]),
        (HEADER, [(3, data[:-1])]),
        (big, [(lock, data)]),
    ]:
        with pytest.raises(FormatError):
            ltx.encode(header, pages, EMPTY)
    with pytest.raises(FormatError):
        ltx.encode(HEADER, [(3, data)], 5)
    with pytest.raises(FormatError):
        ltx.encode(replace(HEADER, commit=0), [], EMPTY | 1)


def test_the_first_transaction_when_a_page_is_missing_then_is_refused(
    page: Callable[..., bytes],
) -> None:
    """TXID 1 holds every page, the lock page excepted, and its checksum is that of the pages."""
    pages = [(n, page(n)) for n in (1, 2, 3)]
    total = EMPTY
    for pgno, data in pages:
        total = fold(total, 0, page_checksum(pgno, data))
    header = Header(512, 3, 1, 1, 0, 0)
    assert ltx.decode(ltx.encode(header, pages, total)).pages == tuple(pages)
    with pytest.raises(FormatError):
        ltx.encode(header, pages[:2], total)
    with pytest.raises(FormatError):
        ltx.encode(header, pages, total ^ 1)


def test_an_index_when_wrong_under_a_right_checksum_then_is_refused(
    page: Callable[..., bytes],
) -> None:
    """A record made by someone else is not believed because its file checksum fits."""
    record = bytearray(ltx.encode(HEADER, [(2, page(1))], EMPTY))
    record[-29] ^= 1  # size of the frame, in the index (a zero, 8 and 16 bytes follow)
    frame = record[100:110]
    body = 110 + int.from_bytes(frame[6:], "big")
    crc = go_iso(record[body:-8], go_iso(page(1), go_iso(record[:110])))
    record[-8:] = (crc | EMPTY).to_bytes(8, "big")
    with pytest.raises(FormatError, match="index"):
        ltx.decode(record)
