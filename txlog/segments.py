"""The writer of a log: appends groups of records to the last segment, and repairs its tail when it
opens.

Always true: records on disk are whole up to `_end` and their TXIDs have no holes; only the last
segment can be torn, because a full one is synced before the next begins. A failed append leaves the
log as it was. Damage before the tail is never cut away.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from struct import Struct

from litemq.errors import CorruptRecordError, FormatError, StorageError
from litemq.txlog import ltx
from litemq.txlog.durable import storage_error, sync_directory
from litemq.txlog.ids import Txid
from litemq.txlog.segment_files import (
    ENTRY_SIZE,
    SegmentInfo,
    index_path,
    list_segments,
    segment_path,
)

_VERIFIED_AT_OPEN = 64  # newest records decoded at every start
_MAX_VECTORS = 512  # buffers per pwritev, below every IOV_MAX
_pack_entry = Struct(">Q").pack


class SegmentWriter:
    """Not for two processes at a time: the node's lock sees to that."""

    def __init__(self, directory: Path, segment_bytes: int, *, power_lost: bool = False) -> None:
        """Open or create the log in `directory`.

        After a power loss (`power_lost`) the whole last segment is decoded, since any of its pages
        may be missing, and cut at the first record that is not whole. Otherwise such a record with
        a whole one after it is a CorruptRecordError.
        """
        self.directory = directory
        self.torn_bytes = 0  # cut from the tail when the log was opened
        self.last_txid: Txid = 0
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._index_fd = -1
        self._end = 0  # of the whole records in the last segment
        self._last_start = 0  # where the last of them begins
        self._index_entries = 0  # on disk
        self._index_backlog = bytearray()
        self._stale_tail = False  # a failed append may have left bytes after _end
        self._directory_changed = False
        self._sync_failed = False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._firsts = [first for first, _ in list_segments(directory)]
            self._open_last(power_lost)
            self._directory_changed = bool(self._firsts)  # whoever was before may not have synced
        except OSError as error:
            raise storage_error(error, "open the log in", directory) from error

    @property
    def first_txid(self) -> Txid:
        """0 if the log is empty."""
        return self._firsts[0] if self._firsts else 0

    def append(self, first_txid: Txid, records: Sequence[bytes]) -> None:
        """Write the records of `first_txid` and its successors as one group.

        On StorageError nothing has been appended and the writer stays usable: the caller may try
        again.
        """
        if not records:
            return
        if self.last_txid and first_txid != self.last_txid + 1:
            raise ValueError(f"TXID {first_txid} cannot follow TXID {self.last_txid}")
        size = len(records[0]) if len(records) == 1 else sum(map(len, records))
        try:
            if self._fd < 0:
                self._start_segment(first_txid)
            elif self._end and self._end + size > self._segment_bytes:
                self.sync()
                self._start_segment(first_txid)
            if self._stale_tail:
                os.ftruncate(self._fd, self._end)
                self._stale_tail = False
            self._write(records, size)
        except OSError as error:
            raise storage_error(error, "append to the log in", self.directory) from error
        end = self._end
        for record in records:
            self._last_start = end
            end += len(record)
            self._index_backlog += _pack_entry(end)
        self._end = end
        self.last_txid = first_txid + len(records) - 1
        self._write_index()

    def sync(self) -> None:
        """Make everything appended durable. A failure is final: the kernel may have dropped what it
        could not write.
        """
        self.begin_sync()()

    def begin_sync(self) -> Callable[[], None]:
        """What `sync` does, as a call for another thread; it may overlap with anything here."""
        if self._sync_failed:
            raise StorageError(f"an earlier sync of {self.directory} failed; restart the node")
        if self._fd < 0:
            return _nothing
        try:
            # a descriptor of its own: ours goes when a new segment begins
            fd = os.dup(self._fd)
        except OSError as error:
            raise storage_error(error, "sync the log in", self.directory) from error
        directory_changed, self._directory_changed = self._directory_changed, False

        def finish() -> None:
            try:
                os.fdatasync(fd)
                if directory_changed:
                    sync_directory(self.directory)
            except OSError as error:
                self._sync_failed = True
                raise storage_error(error, "sync the log in", self.directory) from error
            finally:
                os.close(fd)

        return finish

    def read_last(self) -> bytes | None:
        """The newest record, None if the log is empty."""
        if not self._end:
            return None
        return os.pread(self._fd, self._end - self._last_start, self._last_start)

    def newest(self, count: int) -> Iterator[bytes]:
        """The newest records of the last segment, as its index knows them, oldest first, at most
        `count`.
        """
        if not self._index_entries:
            return
        skip = max(0, self._index_entries - count)
        ends = _to_ends(os.pread(self._index_fd, self._index_entries * ENTRY_SIZE, 0))
        start = ends[skip - 1] if skip else 0
        for end in ends[skip:]:
            yield os.pread(self._fd, end - start, start)
            start = end

    def segments(self) -> list[SegmentInfo]:
        """All segments, oldest first."""
        found = []
        followers = [*self._firsts[1:], self.last_txid + 1]
        for first, follower in zip(self._firsts, followers, strict=False):
            path = segment_path(self.directory, first)
            stat = path.stat()
            found.append(SegmentInfo(path, first, follower - 1, stat.st_size, stat.st_mtime))
        return found

    def drop_before(self, txid: Txid) -> int:
        """Delete the segments that hold only TXIDs before `txid`, never the newest one; returns how
        many.
        """
        dropped = 0
        while len(self._firsts) > 1 and self._firsts[1] <= txid:
            self._delete(segment_path(self.directory, self._firsts[0]))
            del self._firsts[0]
            dropped += 1
        return dropped

    def reset(self) -> None:
        """Delete every record; the next append may start with any TXID."""
        self.close()
        while self._firsts:
            self._delete(segment_path(self.directory, self._firsts[-1]))
            self._firsts.pop()
        self.last_txid = 0
        self._end = self._last_start = self._index_entries = 0
        self._index_backlog.clear()
        self._stale_tail = False
        try:
            sync_directory(self.directory)
        except OSError as error:
            raise storage_error(error, "sync", self.directory) from error

    def close(self) -> None:
        for fd in (self._fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index_fd = -1

    def _write(self, records: Sequence[bytes], size: int) -> None:
        try:
            written = expected = 0
            for at in range(0, len(records), _MAX_VECTORS):
                part = records[at : at + _MAX_VECTORS]
                written += os.pwritev(self._fd, part, self._end + written)
                expected += size if len(part) == len(records) else sum(map(len, part))
                if written < expected:  # rare: a full disk, a limit, or more than 2 GiB
                    rest = b"".join(records)
                    while written < size:
                        written += os.pwrite(
                            self._fd, rest[written : written + (1 << 30)], self._end + written
                        )
                    return
        except OSError:
            self._stale_tail = True
            os.ftruncate(self._fd, self._end)
            self._stale_tail = False
            raise

    def _write_index(self) -> None:
        """Best effort: the index is a cache, what is not written waits for the next append."""
        try:
            at = self._index_entries * ENTRY_SIZE
            written = os.pwrite(self._index_fd, self._index_backlog, at)
        except OSError:
            return
        whole = written // ENTRY_SIZE
        self._index_entries += whole
        del self._index_backlog[: whole * ENTRY_SIZE]

    def _start_segment(self, first_txid: Txid) -> None:
        path = segment_path(self.directory, first_txid)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            index_fd = os.open(
                index_path(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self.close()
        self._fd, self._index_fd = fd, index_fd
        self._firsts.append(first_txid)
        self._end = self._last_start = self._index_entries = 0
        self._index_backlog.clear()
        self._directory_changed = True
        self._stale_tail = False

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            index_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, "delete", path) from error

    def _open_last(self, power_lost: bool) -> None:
        """Find the end of the log, cutting a torn tail. A last segment without a whole record is
        deleted.
        """
        while self._firsts:
            first = self._firsts[-1]
            path = segment_path(self.directory, first)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                tail = _inspect(path, fd, first, power_lost)
                if tail.size > tail.end:
                    self.torn_bytes += tail.size - tail.end
                    if tail.keep_aside:
                        _keep_aside(path, fd, tail.end, tail.size)
                    os.ftruncate(fd, tail.end)
                    os.fdatasync(fd)
                if not tail.ends:
                    os.close(fd)
                    self._delete(path)
                    self._firsts.pop()
                    continue
                self._index_fd, self._index_entries = _rewrite_index(path, tail.ends)
            except BaseException:
                if self._index_fd < 0:
                    os.close(fd)
                raise
            self._fd = fd
            self._end = tail.end
            self._last_start = tail.ends[-2] if len(tail.ends) > 1 else 0
            for end in tail.ends[self._index_entries :]:
                self._index_backlog += _pack_entry(end)
            self.last_txid = first + len(tail.ends) - 1
            return


class _Tail:
    """What was found in the last segment: where each whole record ends, and how much follows."""

    __slots__ = ("ends", "keep_aside", "size")

    def __init__(self, ends: array[int], size: int, keep_aside: bool) -> None:
        self.ends = ends
        self.size = size
        self.keep_aside = keep_aside  # there are whole records among what will be cut

    @property
    def end(self) -> int:
        return self.ends[-1] if self.ends else 0


def _inspect(path: Path, fd: int, first_txid: Txid, power_lost: bool) -> _Tail:
    size = os.fstat(fd).st_size
    if not size:
        return _Tail(array("Q"), 0, False)
    view = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
    problem: str | None = None
    ends = array("Q")
    if not power_lost:
        ends, problem = _scan(view, first_txid, _read_index(path, size), decode_from=None)
    if power_lost or problem:  # the index was wrong, or the log is: look at everything
        ends, problem = _scan(view, first_txid, array("Q"), decode_from=0)
    end = ends[-1] if ends else 0
    if problem is None:
        return _Tail(ends, size, False)
    follows = _whole_record_follows(view, end + 1, first_txid + len(ends))
    if follows and not power_lost:
        raise CorruptRecordError(path, end, f"{problem}, but whole records follow")
    return _Tail(ends, size, follows)


def _scan(
    view: memoryview, first_txid: Txid, ends: array[int], decode_from: int | None
) -> tuple[array[int], str | None]:
    """Extend `ends` to the last whole record; decode from record `decode_from` on, or else the
    newest ones.

    Returns the ends of the records that are whole, and why the next one is not, or None.
    """
    problem: str | None = None
    known = len(ends)
    while True:
        at = ends[-1] if ends else 0
        if at == len(view):
            break
        try:
            length = ltx.measure(view, at)
            if ltx.peek(view, at).min_txid != first_txid + len(ends):
                raise FormatError("a TXID is out of order")
        except FormatError as error:
            problem = str(error)
            break
        ends.append(at + length)
    start = (
        min(known, max(0, len(ends) - _VERIFIED_AT_OPEN)) if decode_from is None else decode_from
    )
    start = min(start, max(0, len(ends) - 1))
    for number in range(start, len(ends)):
        at = ends[number - 1] if number else 0
        try:
            header = ltx.decode(view[at : ends[number]]).header
            if not header.min_txid == header.max_txid == first_txid + number:
                raise FormatError("a TXID is out of order")
        except FormatError as error:
            return ends[:number], str(error)
    return ends, problem


def _whole_record_follows(view: memoryview, start: int, after_txid: Txid) -> bool:
    """Is there, behind the damage, a record that must once have followed it?"""
    data = view.obj
    assert isinstance(data, mmap.mmap)
    while (start := data.find(ltx.MAGIC, start)) >= 0:
        try:
            length = ltx.measure(view, start)
            header = ltx.decode(view[start : start + length]).header
            if after_txid < header.min_txid <= after_txid + len(view):
                return True
        except FormatError:
            pass
        start += 1
    return False


def _keep_aside(path: Path, fd: int, start: int, end: int) -> None:
    """Copy what is about to be cut to a file beside the segment: it holds whole records."""
    with path.with_suffix(f".{start:x}.cut").open("wb") as file:
        for at in range(start, end, 1 << 20):
            file.write(os.pread(fd, min(1 << 20, end - at), at))
        file.flush()
        os.fsync(file.fileno())


def _read_index(path: Path, size: int) -> array[int]:
    """The index if it could be right: ascending, and within the segment; else an empty one."""
    try:
        raw = index_path(path).read_bytes()
    except OSError:
        return array("Q")
    ends = _to_ends(raw[: len(raw) // ENTRY_SIZE * ENTRY_SIZE])
    previous = 0
    for end in ends:
        if not previous < end <= size:
            return array("Q")
        previous = end
    return ends


def _rewrite_index(path: Path, ends: array[int]) -> tuple[int, int]:
    """Make the index hold `ends`; returns its descriptor, and how many entries it took: a full disk
    may have room for fewer.
    """
    fd = os.open(index_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    raw = array("Q", ends)
    raw.byteswap()
    wanted = raw.tobytes()
    written = len(wanted)
    try:
        if os.pread(fd, len(wanted) + 1, 0) != wanted:
            os.ftruncate(fd, 0)
            written = 0
            with contextlib.suppress(OSError):
                written = os.pwrite(fd, wanted, 0)
    except OSError:
        os.close(fd)
        raise
    return fd, written // ENTRY_SIZE


def _to_ends(raw: bytes) -> array[int]:
    ends = array("Q", raw)
    ends.byteswap()
    return ends


def _nothing() -> None:
    """There is nothing to sync."""
