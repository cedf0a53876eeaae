"""Database pages read and written through SQLite itself, by its virtual table `sqlite_dbpage`.

Owns: the process's connections to databases. Locks, journals, the WAL index, crash safety and the
snapshots of readers stay SQLite's business; nothing here writes a database file.
Never: in a process that also opens the same file with another copy of SQLite (the standard
library's): POSIX locks of a process vanish when either copy closes the file.
Always true: one `apply` is one SQLite transaction. Readers see the state before it or after it.

Afterwards the file differs from the source only in what SQLite keeps for itself on page 1: bytes
24-27 and 92-99, and bytes 18-19 while the journal modes differ (pages.BOOKKEEPING).

Source: https://www.sqlite.org/dbpage.html and https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import sqlean  # type: ignore[import-untyped]

from litemq.errors import FormatError
from litemq.fs.pages import DatabaseHeader, read_header
from litemq.fs.sqlite_errors import SQLITE_ERRORS, BusyError, translate, translated
from litemq.fs.wal import (
    INDEX_HEADER_BYTES,
    WAL_HEADER_BYTES,
    frame_offset,
    parse_index_header,
    parse_wal_header,
)
from litemq.txlog.checksums import lock_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Page = tuple[int, bytes]

DEFAULT_BUSY_TIMEOUT_S = 5.0
# A snapshot may pass a whole database through the WAL; SQLite would keep a file that long for ever.
JOURNAL_SIZE_LIMIT_BYTES = 64 << 20

_INSERT = "INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES (?, ?, 'r')"
_SELECT = (
    "SELECT p.pgno, p.data FROM json_each(?) AS want CROSS JOIN sqlite_dbpage AS p"
    " WHERE p.pgno = want.value"
)
_ROLLBACK_MODE, _WAL_MODE = b"\x01\x01", b"\x02\x02"
_ENCODINGS = ("UTF-8", "UTF-16le", "UTF-16be")
_AT_ENCODING = slice(56, 60)


class PageReader:
    """Committed pages of one database, over a read-only connection."""

    def __init__(self, path: str, *, busy_timeout_s: float = DEFAULT_BUSY_TIMEOUT_S) -> None:
        self.path = path
        with translated(path):
            self._db = _connect(f"file:{quote(path)}?mode=ro", busy_timeout_s)

    def read(self, pgnos: Iterable[int]) -> dict[int, bytes]:
        """All these pages as of one moment. Pages that do not exist are left out.

        One short read transaction: a writer in a rollback mode waits for it. Raises BusyError.
        """
        with translated(self.path):
            return dict(self._db.execute(_SELECT, (json.dumps(list(pgnos)),)))

    def snapshot_header(self) -> DatabaseHeader:
        """The header as committed now; NotADatabaseError while the database is empty."""
        page1 = self.read((1,)).get(1, b"")
        return read_header(lambda size: page1[:size])

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class PageWriter:
    """The one writer of a database on a replica. Its open connection keeps `-wal` and `-shm` there.

    Made for an existing, empty or missing file. What it knows of the file (page size, journal
    mode, size) it remembers between calls, so nobody else may write the file meanwhile.
    """

    def __init__(
        self,
        path: str,
        *,
        busy_timeout_s: float = DEFAULT_BUSY_TIMEOUT_S,
        guarded: bool = False,
    ) -> None:
        """`guarded`: the file's mode is 0444 but for the moments when this opens it."""
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._guarded = guarded
        self._db: Any = None
        self._known = False
        self._page_size = 0
        self._lock_page = 0
        self._n_pages = 0
        self._wal = False
        self._vacuums_on_commit = False
        # Of the file's text. Read before a connection is open: closing a descriptor of ours would
        # drop its locks.
        self._encoding = _encoding_of(path)
        with translated(path):
            self._open()

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def n_pages(self) -> int:
        """0 while the database is empty."""
        return self._n_pages

    @property
    def wal(self) -> bool:
        """The journal mode the file is in now: WAL, or else DELETE."""
        return self._wal

    def apply(self, pages: Iterable[Page], *, commit: int, page_size: int, wal: bool) -> None:
        """Writes page images and the size of the database (`commit`, in pages) as one transaction.

        `pages`: ascending by page number; the lock page and pages beyond `commit` are skipped. An
        iterator is consumed as it is written, so it need not fit in memory. With another page size
        than the file's, or an empty file, all pages must be there.
        `wal`: the journal mode the file shall be in, whatever page 1 says. Changing it takes a
        moment alone on the file, out of WAL even one without any other *connection*. Raises
        BusyError for it before anything is written; call with `wal=self.wal` to go on as it is.
        Raises BusyError (rolled back), StorageError, NotADatabaseError.
        """
        if commit < 1:
            raise ValueError("a database has at least one page; a dropped one is unlinked")
        try:
            if not self._known:
                self._open()
            if page_size == self._page_size and wal == self._wal and self._n_pages:
                self._write(iter(pages), commit)
            else:
                self._write_changing_the_file(iter(pages), commit, page_size, wal)
        except SQLITE_ERRORS as exc:
            self._roll_back()
            raise translate(exc, self._path) from exc
        except BaseException:
            self._roll_back()
            raise

    def set_busy_timeout(self, seconds: float) -> None:
        """How long a write waits for readers. With a journal, new ones are kept out meanwhile."""
        self._busy_timeout_s = seconds
        with translated(self._path):
            self._execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")

    def wal_end(self) -> tuple[int, int, int, int] | None:
        """Salts, offset and size of all frames in `-wal`: they are what this connection committed.

        None if there is no WAL, or what it holds is not to be seen. Raises OSError.
        """
        index_fd, wal_fd = _open_file(f"{self._path}-shm"), _open_file(f"{self._path}-wal")
        if index_fd is None or wal_fd is None:
            return None
        index = parse_index_header(os.pread(index_fd, INDEX_HEADER_BYTES, 0))
        try:
            wal = parse_wal_header(os.pread(wal_fd, WAL_HEADER_BYTES, 0))
        except FormatError:
            return None
        if index is None or index.salts != wal.salts:
            return None
        size = frame_offset(index.mx_frame + 1, wal.page_size) - WAL_HEADER_BYTES
        salts = int.from_bytes(wal.salts[:4], "big"), int.from_bytes(wal.salts[4:], "big")
        return (*salts, WAL_HEADER_BYTES, size)

    def checkpoint(self) -> bool:
        """Copies what no reader holds back from the WAL to the file; whether that was everything.

        Waits for nobody and does not sync.
        """
        with translated(self._path):
            row = self._execute("PRAGMA r.wal_checkpoint(PASSIVE)").fetchone()
        busy, in_wal, copied = row
        return not busy and in_wal == copied

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- one transaction

    def _write(self, pages: Iterator[Page], commit: int) -> None:
        first = next(pages, None)
        if first is None:
            page1 = None
        elif first[0] == 1:
            page1 = self._with_own_journal_mode(first[1])
        else:
            page1 = None
            pages = chain((first,), pages)
        execute = self._execute
        # EXCLUSIVE: with a journal, IMMEDIATE would give way to readers only at COMMIT, by rolling
        # back. A reader that cannot write takes a journal that just goes away for a hot one.
        execute("BEGIN EXCLUSIVE")
        if page1 is not None and self._vacuums_on_commit and page1[36:40] != b"\0\0\0\0":
            # With auto_vacuum=FULL, COMMIT would move the free pages that this page 1 counts. It is
            # of a database that has left that mode: many transactions may come as one.
            execute("PRAGMA r.auto_vacuum=INCREMENTAL")
        self._executemany(_INSERT, self._wanted(pages, commit))
        # Page 1 is the last to be written: with its new schema cookie in sight, SQLite might read a
        # schema of which half is still old.
        if page1 is not None:
            execute(_INSERT, (1, page1))
        # Truncation follows even that: any page written after it would cancel it.
        if commit < self._n_pages:
            execute(_INSERT, (commit + 1, None))  # means: this page and all after it
        execute("COMMIT")
        self._n_pages = commit
        if page1 is not None:
            self._vacuums_on_commit = _vacuums_on_commit(page1)
            if self._encoding != _encoding_in(page1):
                self._encoding = _encoding_in(page1)
                self._known = False  # this connection can't read such a schema: the next one can

    def _wanted(self, pages: Iterator[Page], commit: int) -> Iterator[Page]:
        skip = self._lock_page
        last = 1
        for page in pages:
            pgno = page[0]
            if last < pgno <= commit and pgno != skip:
                yield page
                last = pgno
            elif pgno <= last:
                raise ValueError(f"page {pgno} after page {last}: pages must ascend")
        if last < commit and commit > self._n_pages:
            # A page at the end that SQLite allocated and never wrote: the file must reach it.
            yield commit, bytes(self._page_size)

    def _with_own_journal_mode(self, page1: bytes) -> bytes:
        mode = _WAL_MODE if self._wal else _ROLLBACK_MODE
        return page1 if page1[18:20] == mode else b"".join((page1[:18], mode, page1[20:]))

    def _roll_back(self) -> None:
        self._known = False
        if self._db.in_transaction:
            with suppress(sqlean.Error):
                self._execute("ROLLBACK")

    # -- what changes the file as a whole

    def _open(self) -> None:
        """A new connection, and what it says of the file.

        The file is attached to an empty database in memory. `sqlite_dbpage` then checks the schema
        cookie of that one, so SQLite never reads the file's schema again once it is attached. That
        matters: it keeps what it parsed of a b-tree page when the page is replaced under it, and
        what it would read is nonsense ("database disk image is malformed").
        """
        old = self._db
        db = None
        self._set_modes(0o644)
        try:
            self._db = db = self._attached()
            execute = db.cursor().execute
            execute("PRAGMA r.synchronous=OFF")
            execute(f"PRAGMA r.journal_size_limit={JOURNAL_SIZE_LIMIT_BYTES}")
            self._n_pages = execute("PRAGMA r.page_count").fetchone()[0]
            self._wal = execute("PRAGMA r.journal_mode").fetchone()[0] == "wal"
            self._set_page_size(execute("PRAGMA r.page_size").fetchone()[0])
            self._vacuums_on_commit = execute("PRAGMA r.auto_vacuum").fetchone()[0] == 1
        except BaseException:
            if db is not None:
                db.close()
            self._db = old
            raise
        finally:
            self._set_modes(0o444)
        if old is not None:
            old.close()  # only now: the last connection to go would take -wal and -shm with it
        self._execute = execute
        self._executemany = db.cursor().executemany
        self._known = True

    def _attached(self) -> Any:
        """A connection with the file as `r`. SQLite attaches only what has the main database's
        encoding, which is fixed by then.
        """
        refused = None
        # The header says which; what stands in the WAL may be of another.
        for encoding in sorted(_ENCODINGS, key=lambda each: each != self._encoding):
            db = _connect(":memory:", self._busy_timeout_s)
            try:
                db.execute(f"PRAGMA encoding='{encoding}'")
                db.execute("ATTACH ? AS r", (f"file:{quote(self._path)}?mode=rwc",))
            except sqlean.Error as error:
                db.close()
                refused = refused or error
                if error.sqlite_errorcode != sqlean.SQLITE_ERROR:
                    raise
            except BaseException:
                db.close()
                raise
            else:
                self._encoding = encoding
                return db
        assert refused is not None
        raise refused

    def _set_modes(self, mode: int) -> None:
        """SQLite gives the mode of the database to the files it makes beside it.

        The index stays writable: without its read marks, readers would see old states.
        """
        if self._guarded:
            for suffix in ("", "-wal", "-journal", "-shm"):
                with suppress(FileNotFoundError):
                    os.chmod(f"{self._path}{suffix}", mode if suffix != "-shm" else 0o644)

    def _set_page_size(self, page_size: int) -> None:
        self._page_size = page_size
        self._lock_page = lock_page(page_size)

    def _set_journal_mode(self, wal: bool) -> None:
        mode = "wal" if wal else "delete"
        got = self._execute(f"PRAGMA r.journal_mode={mode}").fetchone()[0]
        self._wal = got == "wal"
        if self._wal is not wal:
            raise BusyError(f"{self._path}: the journal mode could not be set to {mode}")
        if wal:
            # opens -wal and -shm, which a reader that leaves would otherwise take with it
            self._execute("BEGIN IMMEDIATE")
            self._execute("COMMIT")
            self._set_modes(0o444)

    def _write_changing_the_file(
        self, pages: Iterator[Page], commit: int, page_size: int, wal: bool
    ) -> None:
        """An empty file and a new page size are for rollback mode, WAL comes after the content."""
        if self._n_pages == 0:
            if self._wal:
                self._set_journal_mode(False)
            self._execute(f"PRAGMA r.page_size={page_size}")
            self._set_page_size(page_size)
            self._write(_starting_with_page_1(pages), commit)
        elif page_size != self._page_size:
            if self._wal:
                self._set_journal_mode(False)
            self._write_in_other_page_size(_starting_with_page_1(pages), commit, page_size)
        else:
            self._set_journal_mode(wal)
            self._write(pages, commit)
            return
        if wal:
            self._set_journal_mode(True)

    def _write_in_other_page_size(self, pages: Iterator[Page], commit: int, page_size: int) -> None:
        """Cuts the new file into pages of the old size: SQLite writes them in one transaction.

        The new page 1 tells the new page size to whoever reads next, as after a VACUUM that
        changed it. (VACUUM itself would need every collation and module that the schema names.)
        """
        old_size = self._page_size
        n_old_pages = -(-commit * page_size // old_size)
        # Only whole pages of the old size can be written, so the file may come out too long. The
        # header counts the surplus first, because SQLite truncates only what it has counted.
        n_too_many = n_old_pages * old_size // page_size
        _, page1 = next(pages)
        counting_all = b"".join((page1[:28], n_too_many.to_bytes(4, "big"), page1[32:]))
        # New pages that lie on the old lock page cannot be written as part of it.
        locked = range(lock_page(page_size) + 1, self._lock_page * old_size // page_size + 1)
        late: list[Page] = []
        alone = old_size > page_size and commit >= locked.start
        if alone:
            self._execute("PRAGMA r.locking_mode=EXCLUSIVE")
        try:
            pages = chain(((1, self._with_own_journal_mode(counting_all)),), pages)
            image = _without_gaps(pages, commit, page_size, locked if alone else range(0), late)
            self._write(_recut(image, old_size), n_old_pages)
            self._set_page_size(page_size)
            self._n_pages = n_too_many
            if late or n_too_many > commit:
                self._write(chain(((1, page1),), late), commit)
        finally:
            if alone:
                self._execute("PRAGMA r.locking_mode=NORMAL")
                # the end of the next transaction is what lets go of the lock
                self._execute("BEGIN IMMEDIATE")
                self._execute("COMMIT")
        self._open()


def _starting_with_page_1(pages: Iterator[Page]) -> Iterator[Page]:
    first = next(pages, None)
    if first is None or first[0] != 1:
        raise ValueError("a new file or a new page size takes all pages, from page 1 on")
    return chain((first,), pages)


def _without_gaps(
    pages: Iterator[Page], commit: int, page_size: int, note: range, noted: list[Page]
) -> Iterator[bytes]:
    """The bytes of every page from 1 to `commit`, zeros for those not given."""
    following = 1
    zeros = bytes(page_size)
    for pgno, data in pages:
        if pgno > commit:
            break
        for _ in range(following, pgno):
            yield zeros
        yield data
        following = pgno + 1
        if pgno in note:
            noted.append((pgno, data))
    for _ in range(following, commit + 1):
        yield zeros


def _recut(chunks: Iterator[bytes], page_size: int) -> Iterator[Page]:
    """The same bytes as pages of another size, the last one filled up with zeros."""
    pgno = 0
    rest = b""
    for chunk in chunks:
        held = rest + chunk
        end = len(held) - len(held) % page_size
        for start in range(0, end, page_size):
            pgno += 1
            yield pgno, held[start : start + page_size]
        rest = held[end:]
    if rest:
        yield pgno + 1, rest.ljust(page_size, b"\0")


def _vacuums_on_commit(page1: bytes) -> bool:
    """Whether auto_vacuum is FULL."""
    return page1[52:56] != b"\0\0\0\0" and page1[64:68] == b"\0\0\0\0"


def _encoding_of(path: str) -> str:
    """What the file's header says; UTF-8 if it has none or can't be read."""
    try:
        with open(path, "rb") as file:
            return _encoding_in(file.read(_AT_ENCODING.stop))
    except OSError:
        return _ENCODINGS[0]


def _encoding_in(page1: bytes) -> str:
    number = int.from_bytes(page1[_AT_ENCODING], "big")
    return _ENCODINGS[number - 1 if 1 <= number <= len(_ENCODINGS) else 0]


def _open_file(path: str) -> int | None:
    """SQLite's own descriptor. One of ours would, when closed, drop the locks that SQLite holds."""
    wanted = os.path.realpath(path)
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == wanted:
                return int(name)
    return None


def _connect(database: str, busy_timeout_s: float) -> Any:
    db = sqlean.connect(database, uri=True, timeout=busy_timeout_s, isolation_level=None)
    # First of all: it also lets a schema pass that this version of SQLite cannot parse, and we
    # have no business with schemas.
    db.execute("PRAGMA writable_schema=ON")
    return db
