"""LTX files for other tools, and a database file made from records.

export_ltx writes what `litestream restore file:///DIR` reads: DIR/ltx/0/<min>-<max>.ltx, level 0
being single transactions.

Always true: a file that appears under its final name is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from litemq.errors import FormatError, GapError
from litemq.txlog import ltx
from litemq.txlog.checksums import CHECKSUM_FLAG, EMPTY, page_checksum
from litemq.txlog.durable import storage_error, sync_directory
from litemq.txlog.ids import Txid
from litemq.txlog.ltx import Transaction
from litemq.txlog.position import ZERO, Position
from litemq.txlog.segment_reader import SegmentReader

_READ_BYTES = 4 << 20


def records_of(reader: SegmentReader, first_txid: Txid | None = None) -> Iterator[bytes]:
    """Every record the log holds from `first_txid` (default: its first) up to where it ends now."""
    first, last = reader.range()
    txid = first if first_txid is None else first_txid
    while txid and txid <= last:
        records = reader.read(txid, _READ_BYTES)
        if not records:
            return
        yield from records
        txid += len(records)


def export_ltx(records: Iterable[bytes], directory: Path, *, db_checksums: bool = False) -> int:
    """Write each record as a file of its own; returns how many. Each is verified first.

    Without `db_checksums` the pre- and post-apply checksums are left out: litestream 0.5.17 turns
    them off for the file it restores into and then refuses an input that has them. With them, the
    files are the log's own bytes. Raises FormatError, StorageError.
    """
    target = directory / "ltx" / "0"
    count = 0
    try:
        target.mkdir(parents=True, exist_ok=True)
        for record in records:
            header = ltx.decode(record).header
            data = record if db_checksums else ltx.without_database_checksums(record)
            path = target / f"{header.min_txid:016x}-{header.max_txid:016x}.ltx"
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            temporary.replace(path)
            count += 1
        sync_directory(target)
    except OSError as error:
        raise storage_error(error, "export to", target) from error
    return count


def apply_record(transaction: Transaction, fd: int) -> None:
    """Write a transaction's pages into a plain file that nobody else has open, and set its size."""
    page_size = transaction.header.page_size
    for pgno, data in transaction.pages:
        at = (pgno - 1) * page_size
        written = os.pwrite(fd, data, at)
        while written < len(data):
            written += os.pwrite(fd, data[written:], at + written)
    os.ftruncate(fd, transaction.header.commit * page_size)


def restore(records: Iterable[bytes], path: Path) -> Position:
    """Make the database file `path` from the records of a whole history, TXID 1 first; returns
    where it ends (epoch 0).

    Every record must decode, follow the one before it and lead to the checksum it names; else
    GapError or FormatError, and `path` is as it was.
    """
    temporary = path.with_name(path.name + ".restoring")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            position = _replay(records, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(error, "restore to", path) from error
    finally:
        temporary.unlink(missing_ok=True)
    return position


def _replay(records: Iterable[bytes], fd: int) -> Position:
    position = ZERO
    sums: dict[int, int] = {}
    page_size = n_pages = 0
    for record in records:
        transaction = ltx.decode(record)
        header = transaction.header
        if header.min_txid != position.txid + 1 or header.pre_checksum != position.checksum:
            raise GapError(f"TXID {header.min_txid} does not follow {position.text}")
        if header.page_size != page_size:
            sums.clear()
            os.ftruncate(fd, 0)
            page_size = header.page_size
        apply_record(transaction, fd)
        if header.commit < n_pages:
            sums = {pgno: value for pgno, value in sums.items() if pgno <= header.commit}
        n_pages = header.commit
        for pgno, data in transaction.pages:
            sums[pgno] = page_checksum(pgno, data)
        position = Position(0, header.max_txid, transaction.post_checksum)
    total = EMPTY
    for value in sums.values():
        total ^= value
    if position.txid and total | CHECKSUM_FLAG != position.checksum:
        raise FormatError(f"the pages do not add up to the checksum of TXID {position.txid}")
    return position
