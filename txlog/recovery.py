"""Making a log's parts fit again when it is opened: base and segments, page checksums and head.

Owns no file; works on those that are being opened. Always true: page checksums are changed only to
what the newest records say, and are emptied rather than left at something that is no state.
"""

from __future__ import annotations

from pathlib import Path

from litemq.errors import FormatError
from litemq.txlog import ltx
from litemq.txlog.checksums import EMPTY, PageChecksums, page_checksum
from litemq.txlog.durable import storage_error
from litemq.txlog.ltx import Header
from litemq.txlog.position import Position
from litemq.txlog.segments import SegmentWriter
from litemq.txlog.state import State

_LARGE_GROUP = 4096  # records
_REDO_WINDOWS = (1, 8, 64, 512, 4096, 1 << 20)  # newest records redone until the checksums add up


def align(directory: Path, state: State, segments: SegmentWriter, *, adopt: bool) -> None:
    """Make the base and the first record meet: finish an interrupted retention, refuse a foreign
    log. `adopt`: there is no saved state, so the segments say where the log starts.
    """
    if not segments.last_txid:
        return
    if adopt:
        move_base(state, segments.segments()[0].path)
        return
    segments.drop_before(state.base.txid + 1)
    first = segments.first_txid
    header = _first_header(segments.segments()[0].path)
    if first != state.base.txid + 1 or header.pre_checksum != state.base.checksum:
        raise FormatError(
            f"the log in {directory} starts with TXID {first}, "
            f"but its state.json says that it follows {state.base.text}"
        )


def move_base(state: State, first_segment: Path) -> None:
    """The log will start with that segment. The size at its base is not known any more."""
    header = _first_header(first_segment)
    txid = header.min_txid - 1
    state.base = Position(state.epochs.at(txid), txid, header.pre_checksum)
    state.page_size = header.page_size
    state.n_pages = 0


def are_in_log(checksums: PageChecksums, segments: SegmentWriter, head: Position) -> bool:
    """Whether the page checksums stand at the head or at one of the newest records.

    A writer that was killed in the middle of a group leaves them before the group.
    """
    before = [ltx.peek(record).pre_checksum for record in segments.newest(_LARGE_GROUP)]
    stands = checksums.total_of_file()
    return any(stands == (each or EMPTY) for each in (head.checksum, *before))


def redo(checksums: PageChecksums, segments: SegmentWriter, head: Position, n_pages: int) -> bool:
    """Bring the page checksums to the head by redoing the newest records.

    False, and emptied, if they do not get there.
    """
    wanted = head.checksum or EMPTY
    checksums.resize(n_pages)
    if checksums.total() != wanted:
        for window in _REDO_WINDOWS:
            done = _redo_newest(checksums, segments, window, n_pages)
            if done < window or checksums.total() == wanted:
                break
    found = checksums.total() == wanted
    if not found:
        checksums.resize(0)
        checksums.resize(n_pages)
    checksums.clear_beyond_end()
    return found


def _redo_newest(
    checksums: PageChecksums, segments: SegmentWriter, count: int, n_pages: int
) -> int:
    """Set the newest records' page checksums again; returns how many records there were."""
    done = 0
    try:
        for record in segments.newest(count):
            transaction = ltx.decode(record)
            checksums.resize(transaction.header.commit)
            for pgno, data in transaction.pages:
                checksums.set(pgno, page_checksum(pgno, data))
            done += 1
    except FormatError:
        done = 0  # damage before the tail: who reads that record will say so
    checksums.resize(n_pages)
    return done


def _first_header(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            return ltx.peek(file.read(ltx.HEADER_SIZE))
    except OSError as error:
        raise storage_error(error, "read", path) from error
