"""Segments: what was appended is read back, a torn tail is cut, damage elsewhere is named."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litemq.errors import CorruptRecordError, StorageError
from litemq.txlog import ltx
from litemq.txlog.segment_reader import SegmentReader, TooOldError
from litemq.txlog.segments import SegmentWriter

Chain = Callable[..., list[bytes]]


def write(directory: Path, records: list[bytes], *, segment_bytes: int = 1 << 20) -> Path:
    """Append one by one; returns the last segment."""
    writer = SegmentWriter(directory, segment_bytes)
    for record in records:
        writer.append(ltx.peek(record).min_txid, [record])
    last = writer.segments()[-1].path
    writer.close()
    return last


def read_all(directory: Path) -> list[bytes]:
    reader = SegmentReader(directory)
    txid, last = reader.range()
    found: list[bytes] = []
    while txid and txid <= last:
        records = reader.read(txid, 1500)
        found += records
        txid += len(records)
    return found


def test_group_when_it_is_larger_than_one_system_call_takes_then_all_of_it_is_there(
    tmp_path: Path, chain: Chain
) -> None:
    """A replica that was far behind appends thousands of records at once."""
    records = chain(1300)
    writer = SegmentWriter(tmp_path, 1 << 30)
    writer.append(1, records)
    writer.close()
    assert read_all(tmp_path) == records


@pytest.mark.parametrize("segment_bytes", [1, 1000, 1 << 20])
@pytest.mark.parametrize("index", ["kept", "missing", "short", "wrong", "long"])
def test_records_when_appended_then_any_reader_sees_them(
    tmp_path: Path, chain: Chain, segment_bytes: int, index: str
) -> None:
    """The index is only a cache: whatever it says, reading and reopening come out the same."""
    records = chain(20)
    write(tmp_path, records, segment_bytes=segment_bytes)
    for path in tmp_path.glob("*.idx"):
        raw = path.read_bytes()
        if index == "missing":
            path.unlink()
        elif index == "short":
            path.write_bytes(raw[:-11])
        elif index == "wrong":
            path.write_bytes(bytes(7) + b"\x09" + raw[8:-8] + raw[-8:-1] + b"\x01")
        elif index == "long":
            path.write_bytes(raw + (1 << 40).to_bytes(8, "big"))
    if index != "long":
        assert read_all(tmp_path) == records
    writer = SegmentWriter(tmp_path, segment_bytes)
    assert (writer.first_txid, writer.last_txid, writer.torn_bytes) == (1, 20, 0)
    assert writer.read_last() == records[-1]
    newest = list(writer.newest(3))
    assert newest == records[-len(newest) :]
    assert len(newest) == 3 or segment_bytes < 1 << 20
    writer.append(21, chain(1, first_txid=21))
    writer.close()
    assert len(read_all(tmp_path)) == 21
    reader = SegmentReader(tmp_path)
    assert reader.read(22, 1000) == reader.read(99, 1000) == []
    for txid in (1, 2, 11, 20):
        assert reader.read(txid, 1) == [records[txid - 1]], (
            "at least one record, whatever the limit"
        )


def test_a_read_when_limited_then_keeps_to_bytes_and_records(tmp_path: Path, chain: Chain) -> None:
    """max_bytes and max_records bound what comes, and so the memory it takes."""
    records = chain(20)
    write(tmp_path, records)
    reader = SegmentReader(tmp_path)
    assert reader.read(3, 1 << 20, max_records=4) == records[2:6]
    for limit in (1000, 2000, 3000):
        got = reader.read(2, limit)
        assert got == records[1 : 1 + len(got)]
        assert sum(map(len, got)) <= limit < sum(map(len, got)) + len(records[1 + len(got)])


def test_a_tail_when_torn_at_any_byte_then_is_cut_at_the_last_whole_record(
    tmp_path: Path, chain: Chain
) -> None:
    """For every length of the file: what is whole stays, the rest goes, and appending goes on."""
    records = chain(4)
    segment = write(tmp_path, records)
    whole = segment.read_bytes()
    ends = [sum(map(len, records[: n + 1])) for n in range(4)]
    for size in range(len(whole)):
        segment.write_bytes(whole[:size])
        assert read_all_or_damage(tmp_path) == records[: sum(end <= size for end in ends)]
        kept = sum(end <= size for end in ends)
        writer = SegmentWriter(tmp_path, 1 << 20)
        assert writer.last_txid == kept
        assert writer.torn_bytes == size - (ends[kept - 1] if kept else 0)
        writer.append(kept + 1, records[kept:])
        writer.close()
        assert segment.read_bytes() == whole
        assert read_all(tmp_path) == records


def read_all_or_damage(directory: Path) -> list[bytes]:
    """What a reader gets when the index promises more than there is."""
    reader = SegmentReader(directory)
    found: list[bytes] = []
    try:
        while records := reader.read(len(found) + 1, 1 << 20):
            found += records
    except CorruptRecordError:
        pass
    return found


def test_a_tail_when_it_ends_in_zeros_or_noise_then_is_cut(tmp_path: Path, chain: Chain) -> None:
    """What a crash of the machine leaves behind the last whole record is no record."""
    records = chain(3)
    segment = write(tmp_path, records)
    for garbage in (bytes(5000), os.urandom(5000), records[2][:-1] + b"\0", b"LTX1" + bytes(2000)):
        with segment.open("ab") as file:
            file.write(garbage)
        writer = SegmentWriter(tmp_path, 1 << 20)
        assert (writer.last_txid, writer.torn_bytes) == (3, len(garbage))
        writer.close()


@pytest.mark.parametrize("with_index", [True, False])
def test_any_record_when_damaged_before_the_tail_then_is_named(
    tmp_path: Path, chain: Chain, with_index: bool
) -> None:
    """Damage before whole records is no torn tail: path and offset are told, nothing is cut."""
    records = chain(5)
    segment = write(tmp_path, records)
    whole = segment.read_bytes()
    offset = len(records[0]) + len(records[1])
    if not with_index:
        segment.with_suffix(".idx").unlink()
    for at in (0, 14, 23, 50, 102, 107, 130, len(records[2]) - 20, len(records[2]) - 1):
        damaged = bytearray(whole)
        damaged[offset + at] ^= 0xFF
        segment.write_bytes(damaged)
        with pytest.raises(CorruptRecordError) as caught:
            SegmentWriter(tmp_path, 1 << 20)
        assert (caught.value.path, caught.value.offset) == (str(segment), offset)
        assert segment.read_bytes() == damaged


def test_a_reader_when_the_structure_is_damaged_then_names_the_place(
    tmp_path: Path, chain: Chain
) -> None:
    """Wrong magic, a wrong TXID or a wrong length: never silence, never the wrong record."""
    records = chain(5)
    segment = write(tmp_path, records)
    whole = segment.read_bytes()
    offset = len(records[0]) + len(records[1])
    for at in (0, 5, 23, 100, 105, 106, 107, len(records[2]) - 16):
        damaged = bytearray(whole)
        damaged[offset + at] ^= 0x81
        segment.write_bytes(damaged)
        with pytest.raises(CorruptRecordError) as caught:
            SegmentReader(tmp_path).read(3, 100)
        assert caught.value.path == str(segment)
        assert SegmentReader(tmp_path).read(1, len(records[0]) + len(records[1])) == records[:2]


def test_a_hole_after_a_power_loss_when_found_then_is_cut_and_kept_aside(
    tmp_path: Path, chain: Chain
) -> None:
    """Unsynced pages reach the disk in any order; what is cut with whole records in it is kept."""
    records = chain(5)
    segment = write(tmp_path, records)
    whole = bytearray(segment.read_bytes())
    offset = len(records[0]) + len(records[1])
    whole[offset : offset + 50] = bytes(50)
    segment.write_bytes(whole)
    writer = SegmentWriter(tmp_path, 1 << 20, power_lost=True)
    assert (writer.last_txid, writer.torn_bytes) == (2, len(whole) - offset)
    writer.close()
    (aside,) = tmp_path.glob("*.cut")
    assert aside.read_bytes() == whole[offset:]


def test_a_new_segment_when_torn_away_then_the_one_before_is_the_last(
    tmp_path: Path, chain: Chain
) -> None:
    """A crash right after a new segment was begun costs nothing but that segment."""
    records = chain(3)
    last = write(tmp_path, records, segment_bytes=1)
    last.write_bytes(records[2][:40])
    writer = SegmentWriter(tmp_path, 1)
    assert (writer.first_txid, writer.last_txid) == (1, 2)
    assert not last.exists()
    writer.append(3, records[2:])
    writer.close()
    assert read_all(tmp_path) == records


def test_segments_when_dropped_then_reads_before_them_are_too_old(
    tmp_path: Path, chain: Chain
) -> None:
    """drop_before keeps the segment that holds the TXID; reset keeps nothing."""
    records = chain(4)
    write(tmp_path, records, segment_bytes=1)
    writer = SegmentWriter(tmp_path, 1)
    assert writer.drop_before(3) == 2
    reader = SegmentReader(tmp_path)
    assert reader.range() == (3, 4)
    with pytest.raises(TooOldError):
        reader.read(2, 100)
    assert writer.drop_before(99) == 1, "the newest always stays"
    writer.reset()
    assert (writer.first_txid, writer.last_txid, reader.range()) == (0, 0, (0, 0))
    assert reader.read(1, 100) == []
    assert list(tmp_path.iterdir()) == []
    writer.append(50, chain(2, first_txid=50))
    assert reader.range() == (50, 51)
    with pytest.raises(ValueError, match="cannot follow"):
        writer.append(53, records[:1])
    writer.close()
    assert SegmentReader(tmp_path / "none").range() == (0, 0)


def test_many_records_when_appended_as_one_group_then_all_are_there(
    tmp_path: Path, chain: Chain
) -> None:
    """A group larger than one vectored write, and larger than a segment."""
    records = chain(1500, n_pages=2)
    writer = SegmentWriter(tmp_path, 1000)
    writer.append(1, records)
    writer.sync()
    writer.close()
    assert read_all(tmp_path) == records


def test_a_disk_when_full_then_the_append_is_undone_and_a_retry_works(
    tmp_path: Path, chain: Chain
) -> None:
    """At every limit: StorageError, the file as before, the writer usable. RLIMIT_FSIZE plays the
    full disk.
    """
    records = chain(6)
    base = sum(map(len, records[:2]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for extra in range(0, sum(map(len, records[2:])), 37):
            directory = tmp_path / str(extra)
            writer = SegmentWriter(directory, 1 << 20)
            writer.append(1, records[:2])
            segment = writer.segments()[0].path
            resource.setrlimit(resource.RLIMIT_FSIZE, (base + extra, hard))
            try:
                with pytest.raises(StorageError) as caught:
                    writer.append(3, records[2:])
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert caught.value.errno is not None
            assert (segment.stat().st_size, writer.last_txid) == (base, 2)
            assert read_all(directory) == records[:2]
            writer.append(3, records[2:])
            writer.close()
            assert read_all(directory) == records
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


_FULL_DISK = """
import sys
from pathlib import Path
from litemq.errors import StorageError
from litemq.txlog.store import DatabaseLog
root = Path(sys.argv[1])
log = DatabaseLog.open(root / "db", segment_bytes=1 << 20, node_id=1)
noise = open("/dev/urandom", "rb")
failures = 0
committed = 0
while failures < 3:
    pages = [(p + 1, noise.read(4096)) for p in range(8)]
    log.prepare(1, pages, commit=8, page_size=4096, timestamp_ms=0)
    try:
        committed = log.head.txid if log.flush() else committed
    except StorageError as error:
        assert error.errno == 28, error
        failures += 1
(root / "ballast").unlink()
assert len(log.flush()) == 3
assert log.checksums.total() == log.head.checksum
print(log.head.text)
log.close(clean=True)
log = DatabaseLog.open(root / "db", segment_bytes=1 << 20, node_id=1)
assert log.trusted and log.torn_bytes == 0
print(log.head.text)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_real_full_disk_when_space_returns_then_nothing_is_lost(tmp_path: Path) -> None:
    """ENOSPC on a small tmpfs: records stay prepared, and all are in the log once there is room."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        (tmp_path / "ballast").write_bytes(bytes(512 << 10))
        done = subprocess.run(
            [sys.executable, "-c", _FULL_DISK, str(tmp_path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        before, after = done.stdout.split()
        assert before == after
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_reader_when_the_index_promises_a_record_that_is_not_whole_then_names_it(
    tmp_path: Path, chain: Chain
) -> None:
    """A last segment that has lost its end reads as damage, not as the end of the log."""
    records = chain(3)
    segment = write(tmp_path, records)
    os.truncate(segment, segment.stat().st_size - 1)
    with pytest.raises(CorruptRecordError):
        SegmentReader(tmp_path).read(3, 1000)
    assert SegmentReader(tmp_path).read(4, 1000) == []


def test_an_append_when_its_rollback_fails_too_then_the_next_one_cuts_first(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shorter retry leaves nothing of the failed group behind it."""
    records = chain(3)
    writer = SegmentWriter(tmp_path, 1 << 20)
    writer.append(1, records[:1])

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        real = os.pwritev

        def write_then_fail(*args: object) -> int:
            real(*args)  # type: ignore[arg-type]
            raise OSError(28, "No space left on device")

        patch.setattr(os, "pwritev", write_then_fail)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(StorageError):
            writer.append(2, records[1:])
    writer.append(2, records[1:2])
    segment = writer.segments()[0].path
    writer.close()
    assert segment.read_bytes() == records[0] + records[1]


def test_sync_when_a_segment_is_full_meanwhile_then_it_still_succeeds(
    tmp_path: Path, chain: Chain
) -> None:
    """Another thread syncs what was the last segment when it was asked to."""
    records = chain(6)
    writer = SegmentWriter(tmp_path, 1)
    writer.append(1, records[:1])
    finish = writer.begin_sync()
    for record in records[1:]:
        writer.append(ltx.peek(record).min_txid, [record])
    finish()
    writer.sync()
    writer.close()
    assert read_all(tmp_path) == records
