"""Prepared records become part of the log, one group per database and turn, and are announced.

Owns what is prepared and not yet appended, who waits for it, and the stall when the disk refuses.
Always true: whoever waits behind `after` is called when what was prepared before is in the log, or
with the errno that keeps it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from litemq import log
from litemq.actors.failing import of_the_disk
from litemq.actors.reactor import Reactor
from litemq.actors.tracked import Capture, Tracked
from litemq.errors import NotADatabaseError, StorageError
from litemq.fs.btree import check_schema_page
from litemq.fs.pages import check_told_size, read_header
from litemq.transport import messages as m
from litemq.transport.sockets import Sender

#: prepared bytes of one database above which they are appended before more is read
GROUP_BYTES = 4 * 1024 * 1024
STALLED_RETRY_S = 0.5
ENOSPC, EIO = 28, 5


class GroupCommit:
    """Append and tell."""

    def __init__(
        self,
        reactor: Reactor,
        to_fuse: Sender,
        to_publisher: Sender,
        *,
        epoch: int,
        inline_bytes: int,
        failed: Callable[[str, StorageError], object],
    ) -> None:
        """`failed` is told of a database whose own log can't be appended to, and why."""
        self._reactor = reactor
        self._to_fuse = to_fuse
        self._to_publisher = to_publisher
        self._epoch = epoch
        self._inline_bytes = inline_bytes
        self._failed = failed
        self._log = log.get()
        self._dirty: dict[str, Tracked] = {}
        self._waiting: list[tuple[Tracked | None, Callable[[int], None]]] = []
        self.stalled_errno = 0
        #: whether the mount and we agree on how things stand; only then a stall can be over
        self.agreed = False

    # --- prepare

    def prepare(
        self,
        tracked: Tracked,
        pages: Iterable[tuple[int, bytes]],
        commit: int,
        page_size: int,
        *,
        capture: Capture | None = None,
    ) -> bool:
        """Make the next record of the database; False if the pages change nothing.

        Also where they are too many for a record, and the log is to start anew behind them.

        `capture` is where these pages came from: see `Tracked.resume_point`. Raises
        NotADatabaseError if they are no part of a database in the clear, ValueError if more pages
        are needed: of a log's first record, and of a database that comes back. Then nothing is
        prepared, and the database is to be compared as a whole.
        """
        record = tracked.log.prepare(
            self._epoch,
            _in_the_clear(pages, commit, starts=not tracked.log.n_pages, foreign=tracked.foreign),
            commit=commit,
            page_size=page_size,
            timestamp_ms=_now_ms(),
            wal=capture,
            complete=False,
        )
        if record is None:
            return False
        self._dirty[tracked.name] = tracked
        return True

    def drop(self, tracked: Tracked) -> None:
        """Make the record of a database that is gone."""
        tracked.foreign = False
        if tracked.log.drop(self._epoch, _now_ms()) is not None:
            self._dirty[tracked.name] = tracked

    def after(self, tracked: Tracked | None, call: Callable[[int], None]) -> None:
        """Call with 0 when all that is prepared (of one database, or of all) is in the log.

        With an errno if it can't be appended now; it stays prepared.
        """
        self._waiting.append((tracked, call))

    # --- append

    def flush(self) -> bool:
        """Append every group, then call who waits. For `Reactor.after_events`."""
        if not self._dirty and not self._waiting:
            return False
        errno, alone = 0, {}
        for tracked in list(self._dirty.values()):
            refused = self._flush_one(tracked)
            if refused and tracked.name not in self._dirty:
                alone[tracked.name] = refused
            errno = errno or (refused if tracked.name in self._dirty else 0)
        waiting, self._waiting = self._waiting, []
        for of, call in waiting:
            if of is not None and of.name in alone:
                call(alone[of.name])
                continue
            unwritten = of is None or of.name in self._dirty
            call(errno if errno and unwritten else 0)
        return False

    def forget(self, tracked: Tracked) -> None:
        """What was prepared of it will not be appended: it is to be compared as a whole."""
        self._dirty.pop(tracked.name, None)
        if self.stalled_errno and not self._dirty and self.agreed:
            self._unstall()

    def flush_if_large(self, tracked: Tracked) -> None:
        if tracked.log.pending_bytes > GROUP_BYTES:
            self._flush_one(tracked)

    def _flush_one(self, tracked: Tracked) -> int:
        starts_anew = tracked.log.starts_anew
        try:
            records = tracked.log.flush()
        except StorageError as error:
            if not of_the_disk(error):
                self._failed(tracked.name, error)
                return error.errno or EIO
            self.stall(error)
            return self.stalled_errno
        self._dirty.pop(tracked.name, None)
        tracked.note_appended()
        if self.stalled_errno and not self._dirty:
            self._unstall()
        if starts_anew:
            self._log.info(
                "a transaction too large for the log; it starts anew behind it",
                db=tracked.name, txid=tracked.log.state.base.txid,
            )  # fmt: skip
            tracked.unsynced = True  # what was prepared behind it
            tracked.show_position()
            self._to_publisher.send(m.DatabaseHeads([tracked.appended]))
        else:
            self._tell(tracked, records)
        return 0

    # --- tell

    def _tell(self, tracked: Tracked, records: list[bytes]) -> None:
        tracked.show_position()
        if not records:
            return
        tracked.unsynced = True
        lengths = [len(record) for record in records]
        first = tracked.log.head.txid - len(records) + 1
        payload = [b"".join(records)] if sum(lengths) <= self._inline_bytes else []
        self._to_publisher.send(m.RecordsLogged(tracked.appended, first, lengths), *payload)

    def announce(self, databases: Iterable[Tracked]) -> None:
        """Tell the publisher every head; it, or this actor, has just started."""
        self.flush()  # a head is told when its record can be read
        known = list(databases)
        heads = [tracked.appended for tracked in known if tracked.appended.position.txid]
        self._to_publisher.send(m.DatabaseHeads(heads))
        for tracked in known:
            tracked.show_position()

    # --- a disk that refuses

    def stall(self, error: StorageError) -> None:
        """Have the mount refuse writes until the log can be appended to again."""
        if not self.stalled_errno:
            self._log.error("can't append to the log; writes are refused", reason=str(error))
            self._reactor.later(STALLED_RETRY_S, self._retry)
        self.stalled_errno = error.errno or ENOSPC
        self._to_fuse.send(m.LogStalled(self.stalled_errno))

    def _retry(self) -> None:
        self.flush()
        if self.stalled_errno and self.agreed and not self._dirty:
            self._unstall()
        if self.stalled_errno:
            self._to_fuse.send(m.LogStalled(self.stalled_errno))
            self._reactor.later(STALLED_RETRY_S, self._retry)

    def _unstall(self) -> None:
        self.stalled_errno = 0
        self._to_fuse.send(m.LogStalled(0))
        self._log.info("the log can be appended to again")


def _in_the_clear(
    pages: Iterable[tuple[int, bytes]], commit: int, *, starts: bool, foreign: bool
) -> Iterator[tuple[int, bytes]]:
    """The same pages, of a database of `commit` pages; `starts`: the first of a log; `foreign`: the
    file was no database in the clear before.
    """
    for number, data in pages:
        if number == 1:
            header = read_header(partial(_first, data))
            check_told_size(header, commit)
            if starts:
                check_schema_page(data, header.page_size - header.reserved_bytes)
            if foreign:
                raise ValueError("it is a database in the clear again: all pages are needed")
        yield number, data
    if foreign:
        raise NotADatabaseError("it has not come back")


def _first(data: bytes, size: int) -> bytes:
    return data[:size]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
