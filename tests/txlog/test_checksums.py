"""Checksums are those of LTX, and their file survives growing, shrinking and a full disk."""

from __future__ import annotations

import random
from functools import reduce
from operator import xor
from pathlib import Path

import pytest

from litemq.errors import FormatError
from litemq.txlog.checksums import (
    CHECKSUM_FLAG,
    EMPTY,
    PageChecksums,
    fold,
    lock_page,
    page_checksum,
    read_page_checksums,
    xor_entries,
)


def crc64_iso(data: bytes) -> int:
    """Bit by bit from its definition: polynomial 0x1b, reflected, all ones in and out."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ ((1 << 64) - 1)


def test_a_page_when_checksummed_then_is_crc64_iso_of_number_and_bytes() -> None:
    """The definition in the LTX README, computed in another way."""
    data = random.Random(5).randbytes(512)
    expected = crc64_iso((1027).to_bytes(4, "big") + data) | CHECKSUM_FLAG
    assert page_checksum(1027, data) == page_checksum(1027, memoryview(data)) == expected


def test_the_lock_page_when_asked_for_then_holds_byte_0x40000000() -> None:
    """Its number depends on the page size."""
    assert [lock_page(size) for size in (512, 4096, 65536)] == [2097153, 262145, 16385]


def test_a_page_when_folded_in_and_out_then_the_database_is_as_before() -> None:
    """fold is its own inverse and always sets the flag."""
    new = page_checksum(1, b"x" * 512)
    assert fold(EMPTY, 0, new) == new
    assert fold(fold(EMPTY, 0, new), new, 0) == EMPTY


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 1000, 1001])
def test_entries_when_xored_in_bulk_then_equal_one_by_one(count: int) -> None:
    """The long-integer trick is right for odd counts too."""
    values = [random.Random(i).getrandbits(64) for i in range(count)]
    data = b"".join(value.to_bytes(8, "big") for value in values)
    assert xor_entries(data) == reduce(xor, values, 0)


def test_the_file_when_resized_then_what_was_cut_stays_zero(tmp_path: Path) -> None:
    """Growing again over a cut brings no old entry back, and everything is there after a reopen."""
    path = tmp_path / "pages.sum"
    sums = PageChecksums(path, 0)
    sums.resize(20_000)
    expected = EMPTY
    for pgno in range(1, 20_001):
        sums.set(pgno, CHECKSUM_FLAG | pgno * 7919)
        expected = fold(expected, 0, CHECKSUM_FLAG | pgno * 7919)
    assert sums.total() == expected
    sums.resize(3)
    sums.resize(10)
    assert [sums.get(pgno) & ~CHECKSUM_FLAG for pgno in (3, 4, 10, 11, 0)] == [3 * 7919, 0, 0, 0, 0]
    sums.sync()
    sums.close()
    sums.close()
    again = PageChecksums(path, 10)
    assert again.read(1, 99) == read_page_checksums(path, 10)
    assert again.read(3, 1) == (CHECKSUM_FLAG | 3 * 7919).to_bytes(8, "big")
    with pytest.raises(IndexError):
        again.set(11, 1)
    with pytest.raises(IndexError):
        again.write(9, bytes(24))
    again.close()
    assert len(read_page_checksums(path, 1 << 16)) == 8 << 16
    with pytest.raises(FormatError):
        read_page_checksums(tmp_path / "none", 1)
