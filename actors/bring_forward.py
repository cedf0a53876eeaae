"""After the kernel's cache of a mount was lost: a database behind its log gets pages from there.

Where writes are cached, the log writer takes commits from the kernel's memory; a kill of the
mount's actor, or of the node, can leave the log with transactions that the file has not. They are
committed, and replicas have them. Works at rest, on the backing files: nobody has the mount yet.
Always true: a page is written only if its image in the log has the checksum that the log's head
names, and only if all pages that are missing were found.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

from litemq.actors.page_spool import PageSpool
from litemq.fs.dbpage import PageWriter
from litemq.txlog import ltx
from litemq.txlog.checksums import lock_page, page_checksum
from litemq.txlog.segment_reader import SegmentReader
from litemq.txlog.store import LOG_FOLDER, DatabaseLog


def missing_pages(logged: DatabaseLog, differing: Iterable[int], pages: int) -> array[int]:
    """Pages that the log's head has otherwise than the file, which has so many `pages`.

    `differing` of these may come in any order.
    """
    lock = lock_page(logged.page_size)
    known = chain(sorted(differing), range(pages + 1, logged.n_pages + 1))
    return array(
        "L",
        (
            number
            for number in known
            if number <= logged.n_pages and number != lock and logged.page_checksum(number)
        ),
    )


def find_images(
    logged: DatabaseLog, numbers: Sequence[int], images: PageSpool, beat: Callable[[], None]
) -> bool:
    """Collect the `images` of these pages at the log's head; False if the log does not hold all.

    `beat` is called again and again. Raises FormatError, StorageError, OSError.
    """
    wanted = bytearray(logged.n_pages + 1)
    for number in numbers:
        wanted[number] = 1
    left = len(numbers)
    for record in SegmentReader(logged.directory / LOG_FOLDER).newest_first():
        beat()
        if not left:
            break
        for number, image in ltx.decode(record).pages:
            if (
                number <= logged.n_pages
                and wanted[number]
                and page_checksum(number, image) == logged.page_checksum(number)
            ):
                images.add(number, image)
                wanted[number] = 0
                left -= 1
    return not left


def bring_forward(path: Path, logged: DatabaseLog, images: PageSpool) -> None:
    """Write the pages through SQLite, which recovers the WAL first. Raises LiteMQError, OSError.

    Afterwards the WAL is empty and everything is on the disk.
    """
    wal = Path(f"{path}-wal")
    before = wal.stat()
    with PageWriter(str(path)) as writer:
        writer.apply(
            images.pages(),
            commit=logged.n_pages,
            page_size=logged.page_size,
            wal=writer.wal,
        )
        writer.checkpoint()
    if not wal.exists():
        # the mount knows that there is one; an empty WAL says nothing
        os.close(
            os.open(wal, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, stat.S_IMODE(before.st_mode))
        )
        os.chown(wal, before.st_uid, before.st_gid)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
