"""Which pages of a database file differ from what the log knows of them.

Reads the backing file, with the committed frames of its WAL laid over it. Never locks: whoever
calls has made sure that no transaction is under way, and a file that is only half there (shorter
than its header says) is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ELOOP, ENOENT
from itertools import chain
from pathlib import Path

from litemq.errors import FormatError, NotADatabaseError
from litemq.fs.overlay import Overlay
from litemq.fs.pages import DatabaseHeader, database_size, read_header
from litemq.txlog.checksums import lock_page, page_checksum

#: `beat` is called once for so many pages read
BEAT_PAGES = 4096


@dataclass(frozen=True, slots=True)
class Changed:
    """The pages that differ, and the size of the database they belong to.

    They are found one by one, as they are asked for: those of the file by ascending number, then,
    if all are compared, those of the WAL as they stand there.
    """

    page_size: int
    commit: int
    pages: Iterator[tuple[int, bytes]]


def is_database(path: Path) -> bool:
    """Whether the file begins as a SQLite database does."""
    try:
        with open(path, "rb") as file:
            read_header(lambda size: os.pread(file.fileno(), size, 0))
    except (NotADatabaseError, FileNotFoundError):
        return False
    return True


@contextmanager
def compare(
    path: str,
    known: Callable[[int], int],
    *,
    known_size: tuple[int, int],
    numbers: Iterable[int] | None = None,
    overlay: Overlay | None = None,
    everything: bool = False,
    beat: Callable[[], None] | None = None,
    logged_from: int | None = None,
) -> Iterator[Changed]:
    """Compare the file's pages with the checksums `known` tells.

    `known_size`: page size and pages of the database that those are of. `numbers`: the pages that
    may have changed (None: any); whatever they say, pages it did not have are looked at.
    `everything` gives all pages, whether they differ or not. `logged_from`: of the frames behind
    that one it is known that the log has them. Raises FormatError when the file is no whole
    database, OSError when it can't be read; its pages do so, too.
    """
    fd = _open(path)
    try:
        first = overlay.read(1) if overlay is not None else None

        def beginning(size: int) -> bytes:
            data = os.pread(fd, size, 0) if first is None else first[:size]
            if not data:
                raise FormatError(f"{path} has been cut meanwhile")
            return data

        header = read_header(beginning)
        size = header.page_size
        file_bytes = os.fstat(fd).st_size
        commit = database_size(header, file_bytes) if overlay is None else overlay.n_pages
        if not commit or (overlay is None and _half_written(header, file_bytes)):
            raise FormatError(f"{path} is shorter than its header says")
        old_size, old_pages = known_size
        wanted: Iterable[int] = range(1, commit + 1)
        pages: Iterator[tuple[int, bytes]]
        if numbers is not None and old_size == size and old_pages:
            before = sorted(number for number in {*numbers} if number <= old_pages)
            wanted = chain(before, range(old_pages + 1, commit + 1))
        if numbers is None and overlay is not None:
            rest = (number for number in wanted if not overlay.has(number))
            pages = chain(
                _pages(fd, path, size, commit, rest, None, beat),
                _of_wal(overlay, size, beat, None if everything else logged_from),
            )
        else:
            pages = _pages(fd, path, size, commit, wanted, overlay, beat)
        if not everything:
            pages = (page for page in pages if page_checksum(*page) != known(page[0]))
        yield Changed(size, commit, pages)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Raises FileNotFoundError for a link, too: it leads to another database. OSError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == ELOOP:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), path) from error
        raise


def _pages(
    fd: int,
    path: str,
    size: int,
    commit: int,
    wanted: Iterable[int],
    overlay: Overlay | None,
    beat: Callable[[], None] | None,
) -> Iterator[tuple[int, bytes]]:
    lock = lock_page(size)
    for count, number in enumerate(wanted):
        if beat is not None and count % BEAT_PAGES == BEAT_PAGES - 1:
            beat()
        if number == lock or number > commit:
            continue
        page = None if overlay is None else overlay.read(number)
        if page is None:
            page = os.pread(fd, size, (number - 1) * size)
        if len(page) != size:
            raise FormatError(f"{path} ends before page {number} of {commit}")
        yield number, page


def _of_wal(
    overlay: Overlay, size: int, beat: Callable[[], None] | None, up_to: int | None
) -> Iterator[tuple[int, bytes]]:
    """In one go: it may be long."""
    lock = lock_page(size)
    for count, (number, page) in enumerate(overlay.images(up_to)):
        if beat is not None and count % BEAT_PAGES == BEAT_PAGES - 1:
            beat()
        if number != lock:
            yield number, page


def _half_written(header: DatabaseHeader, file_bytes: int) -> bool:
    return (
        header.change_counter == header.version_valid_for
        and header.n_pages_in_header * header.page_size > file_bytes
    )
