"""Builders of records and of histories, given as fixtures since tests import nothing from each
other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litemq.txlog import ltx
from litemq.txlog.checksums import EMPTY, fold, page_checksum
from litemq.txlog.ltx import Header
from litemq.txlog.store import DatabaseLog

PAGE_SIZE = 512


def make_page(seed: int, page_size: int = PAGE_SIZE) -> bytes:
    """A page that is half text, half zeros: it compresses, but not to nothing."""
    rnd = random.Random(seed)
    return bytes(rnd.randrange(97, 123) for _ in range(page_size // 2)).ljust(page_size, b"\0")


def make_chain(count: int, *, n_pages: int = 3, first_txid: int = 1) -> list[bytes]:
    """Records of `count` successive transactions: the first holds every page, the others one."""
    records = []
    sums: dict[int, int] = {}
    checksum = 0 if first_txid == 1 else EMPTY
    for txid in range(first_txid, first_txid + count):
        numbers = range(1, n_pages + 1) if txid == first_txid else [txid % n_pages + 1]
        pages = [(pgno, make_page(txid * 100 + pgno)) for pgno in numbers]
        after = checksum or EMPTY
        for pgno, data in pages:
            new = page_checksum(pgno, data)
            after = fold(after, sums.get(pgno, 0), new)
            sums[pgno] = new
        header = Header(PAGE_SIZE, n_pages, txid, txid, 1_700_000_000_000 + txid, checksum)
        records.append(ltx.encode(header, pages, after))
        checksum = after
    return records


@pytest.fixture
def page() -> Callable[..., bytes]:
    return make_page


@pytest.fixture
def chain() -> Callable[..., list[bytes]]:
    return make_chain


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[..., DatabaseLog]]:
    """Opens the log in tmp_path/db (or `name`) any number of times; all are closed at the end."""
    opened: list[DatabaseLog] = []

    def open_(name: str = "db", *, segment_bytes: int = 1 << 20) -> DatabaseLog:
        log = DatabaseLog.open(tmp_path / name, segment_bytes=segment_bytes, node_id=7)
        opened.append(log)
        return log

    yield open_
    for log in opened:
        log.close(clean=False)
