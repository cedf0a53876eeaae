"""A repair under way on a replica: pages and redo records are collected in a file and applied as
one transaction.

Always true: the database file is not touched before everything has arrived and its checksums add up
to the primary's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lz4.block

from litemq.actors.page_spool import PageSpool
from litemq.errors import FormatError
from litemq.transport.messages import Head
from litemq.txlog import ltx
from litemq.txlog.checksums import CHECKSUM_FLAG, EMPTY, lock_page, page_checksum, xor_of


class Repair:
    """What has arrived so far."""

    def __init__(self, directory: Path, page_size: int, checksums: bytes) -> None:
        """`checksums` are those of the pages the replica has, at `page_size`."""
        self._spool = PageSpool(directory, page_size)
        self._page_size = page_size
        self._sums = bytearray(checksums)

    def add_pages(self, page_size: int, numbers: list[int], data: bytes) -> None:
        """Pages as the primary read them. Raises FormatError."""
        if not 512 <= page_size <= 65536:
            raise FormatError(f"a page size of {page_size}")
        try:
            raw = lz4.block.decompress(data, uncompressed_size=len(numbers) * page_size)
        except lz4.block.LZ4BlockError as error:
            raise FormatError(f"pages that can't be decompressed: {error}") from error
        if len(raw) != len(numbers) * page_size:
            raise FormatError(f"{len(raw)} bytes for {len(numbers)} pages")
        if not all(0 < number <= ltx.MAX_PAGE_NO for number in numbers):
            raise FormatError("a page number that no database has")
        self._restart_at(page_size)
        for at, number in enumerate(numbers):
            self._add(number, raw[at * page_size : (at + 1) * page_size])

    def add_record(self, record: bytes) -> None:
        """A transaction made while the pages were read. Raises FormatError."""
        transaction = ltx.decode(record)
        header = transaction.header
        if header.commit != 0:
            self._restart_at(header.page_size)
        for number, data in transaction.pages:
            self._add(number, data)
        self._cut(header.commit)

    def _restart_at(self, page_size: int) -> None:
        if page_size != self._page_size:
            self._sums.clear()
            self._spool.start_over(page_size)
            self._page_size = page_size

    def _add(self, number: int, data: bytes) -> None:
        self._spool.add(number, data)
        missing = number * 8 - len(self._sums)
        if missing > 0:
            self._sums += bytes(missing)
        self._sums[(number - 1) * 8 : number * 8] = page_checksum(number, data).to_bytes(8, "big")

    def _cut(self, commit: int) -> None:
        del self._sums[commit * 8 :]
        self._spool.cut(commit)

    def finish(self, head: Head) -> bytes:
        """Checksums of the state that `head` names.

        Raises FormatError when they do not add up to it.
        """
        self._cut(head.pages)
        self._sums += bytes(head.pages * 8 - len(self._sums))
        if head.pages:
            lock = lock_page(head.page_size)
            if lock <= head.pages:
                self._sums[(lock - 1) * 8 : lock * 8] = bytes(8)
        total = xor_of(self._sums) | CHECKSUM_FLAG if head.pages else EMPTY
        if total != head.position.value.checksum:
            raise FormatError(
                f"the repaired pages add up to {total:016x}, not to {head.position.checksum}"
            )
        return bytes(self._sums)

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """What has to be written, by ascending page number."""
        return self._spool.pages()

    @property
    def count(self) -> int:
        return self._spool.count

    def page1(self) -> bytes | None:
        return self._spool.get(1)

    def close(self) -> None:
        self._spool.close()
