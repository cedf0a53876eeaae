"""Transactions merged into one, for SQLite to take in at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from litemq.txlog.ltx import Transaction
from litemq.txlog.position import Position


@dataclass(slots=True)
class Batch:
    """Transactions merged into one: last image of each page, final size."""

    pages: dict[int, bytes]
    last: Position
    commit: int
    page_size: int
    dropped: bool
    bytes: int


def merge(entries: Iterable[tuple[int, Transaction]], *, limit: int | None) -> Batch | None:
    """One batch of them, of `limit` bytes or a little more."""
    batch: Batch | None = None
    for epoch, transaction in entries:
        header = transaction.header
        position = Position(epoch, header.max_txid, transaction.post_checksum)
        if batch is None:
            batch = Batch({}, position, header.commit, header.page_size, False, 0)
        elif limit is not None and batch.bytes > limit:
            break
        if header.commit == 0:
            batch.dropped = True
        if header.commit == 0 or header.page_size != batch.page_size:
            batch.pages.clear()
        elif header.commit < batch.commit:
            for number in [number for number in batch.pages if number > header.commit]:
                del batch.pages[number]
        batch.pages.update(transaction.pages)
        batch.bytes += sum(len(data) for _, data in transaction.pages)
        batch.last, batch.commit, batch.page_size = position, header.commit, header.page_size
    return batch
