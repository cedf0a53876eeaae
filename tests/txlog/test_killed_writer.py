"""A real writer process, killed with SIGKILL at any instruction, and a reader that watches it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from litemq.txlog import archive, ltx
from litemq.txlog.checksums import CHECKSUM_FLAG, read_page_checksums, xor_entries
from litemq.txlog.segment_reader import SegmentReader
from litemq.txlog.store import DatabaseLog

_WRITER = """
import os, random, sys
from pathlib import Path
from litemq.txlog.store import DatabaseLog
log = DatabaseLog.open(Path(sys.argv[1]), segment_bytes=50_000, node_id=1)
assert log.trusted
rnd = random.Random(log.head.txid)
while True:
    for _ in range(rnd.choice([1, 1, 2, 9])):
        size = rnd.randrange(20, 40)
        numbers = [1, *rnd.choices(range(1, size + 1), k=rnd.randrange(1, 9))]
        pages = [(pgno, rnd.randbytes(512)) for pgno in numbers]
        log.prepare(1, pages, commit=size, page_size=512, timestamp_ms=0)
    log.flush()
    os.write(1, b"%d\\n" % log.head.txid)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_writer_when_killed_then_the_log_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    """What was flushed is there, the chain has no break, and the page checksums fit, every time."""
    directory = tmp_path / "db"
    reader = SegmentReader(directory / "log")
    flushed = 0
    seen: list[bytes] = []
    for round_ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(directory)], stdout=subprocess.PIPE, env=os.environ
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 37 * seed + round_):
                flushed = int(writer.stdout.readline())
                seen += reader.read(len(seen) + 1, 20_000)  # while the writer appends
            writer.kill()
            flushed = max([flushed, *map(int, writer.stdout.read().split(b"\n")[:-1])])
        log = DatabaseLog.open(directory, segment_bytes=50_000, node_id=1)
        assert log.trusted
        assert log.head.txid >= flushed
        total = xor_entries(read_page_checksums(directory / "pages.sum", log.n_pages))
        assert total | CHECKSUM_FLAG == log.head.checksum
        log.close(clean=False)
    records = list(archive.records_of(reader))
    assert records[: len(seen)] == seen, "a reader never saw a record that was taken back"
    assert [ltx.peek(record).min_txid for record in records] == list(range(1, log.head.txid + 1))
    assert archive.restore(records, tmp_path / "out").checksum == log.head.checksum
