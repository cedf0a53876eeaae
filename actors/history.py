"""What a command reads of a node's log while the node writes it: positions, page checksums,
records.

Only reads files of the data directory, and only ever between two positions that the node itself has
told.
"""

from __future__ import annotations

from collections.abc import Iterator

from litemq.actors.layout import Layout
from litemq.errors import FormatError
from litemq.txlog import ltx
from litemq.txlog.checksums import read_page_checksums
from litemq.txlog.ltx import Transaction
from litemq.txlog.position import Position, parse
from litemq.txlog.segment_reader import SegmentReader, TooOldError
from litemq.txlog.state import State, load

_READ_BYTES = 4 << 20


class History:
    """The log of one database, as a reader sees it."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.name = name
        self._position = layout.position(name)
        self._directory = layout.database(name)
        self._reader = SegmentReader(self._directory / "log")

    def position(self) -> Position | None:
        """What `NAME-pos` shows; None when there is no such database (now)."""
        try:
            text = self._position.read_text("ascii").strip()
            return parse(text) if text else None
        except (FileNotFoundError, FormatError):  # half written: it is being hidden
            return None

    def state(self) -> State:
        """What is saved beside the log."""
        return load(self._directory) or State()

    def checksums(self, pages: int) -> bytes:
        """8 bytes a page, as they stand at this moment."""
        return read_page_checksums(self._directory / "pages.sum", pages)

    def first_txid(self) -> int:
        """The first transaction that is still in the log; 0 when there is none."""
        return self._reader.range()[0]

    def last_txid(self) -> int:
        """The newest transaction in the log; 0 when there is none."""
        return self._reader.range()[1]

    def raw(self, first: int, last: int) -> Iterator[bytes]:
        """The records from `first` to `last`. Raises TooOldError when they are not (all) there."""
        txid = first
        while txid <= last:
            records = self._reader.read(txid, _READ_BYTES, last - txid + 1)
            if not records:
                raise TooOldError(f"TXID {txid} is not in the log of {self.name}")
            yield from records
            txid += len(records)

    def transactions(self, first: int, last: int) -> Iterator[Transaction]:
        """The same, verified."""
        return map(ltx.decode, self.raw(first, last))
