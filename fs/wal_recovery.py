"""How far a WAL is valid, told by SQLite's own recovery: compiled, at the speed of memory.

Owns a folder, in which an empty database has the WAL in question for its own, by a hard link: no
lock is taken on any other file. Never writes to the WAL: a connection that may only read does not
checkpoint. Always true: what comes out is the header of the WAL index that SQLite has made of it.

Source: https://www.sqlite.org/walformat.html#recovery
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import sqlean  # type: ignore[import-untyped]

from litemq.fs.wal import INDEX_HEADER_BYTES, WalIndexHeader, parse_index_header

#: `beat` is called this often meanwhile (seconds)
BEAT_S = 0.2


def recover(
    fd: int, page_size: int, folder: Path, beat: Callable[[], object]
) -> WalIndexHeader | None:
    """The index of the WAL that is open as `fd`; None if that can't be had.

    `folder` is on the same file system, and is made and removed here. `beat` is called now and
    then.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        folder.mkdir(mode=0o700)
        database = folder / "recovered"
        database.write_bytes(_empty_database(page_size))
        _link(fd, folder, "recovered-wal")
        thread = threading.Thread(target=_read, args=(str(database),), name="recovery", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(BEAT_S)
            beat()
        return parse_index_header(Path(f"{database}-kept").read_bytes()[:INDEX_HEADER_BYTES])
    except (OSError, RuntimeError):  # another file system, no links there, no thread left
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(fd: int, folder: Path, name: str) -> None:
    """One more name for an open file."""
    into = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # with a directory's descriptor Python calls linkat, which can follow /proc's link
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=into, follow_symlinks=True)
    finally:
        os.close(into)


def _read(path: str) -> None:
    """Begin a read transaction, which recovers first; how it ends does not matter."""
    with contextlib.suppress(sqlean.Error, MemoryError):
        db = sqlean.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)
        try:
            db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        finally:
            index = f"{path}-shm"
            # The last one to close takes the index away: keep it under another name.
            with contextlib.suppress(OSError):
                os.link(index, f"{path}-kept")
            db.close()


def _empty_database(page_size: int) -> bytes:
    """One page that says it is in WAL mode."""
    stored = 1 if page_size == 65536 else page_size
    header = b"SQLite format 3\0" + stored.to_bytes(2, "big") + b"\2\2\0\x40\x20\x20"
    header += (1).to_bytes(4, "big") + (1).to_bytes(4, "big")
    header = header.ljust(92, b"\0") + (1).to_bytes(4, "big")
    leaf = b"\x0d\0\0\0\0" + (page_size & 0xFFFF).to_bytes(2, "big") + b"\0"
    return (header.ljust(100, b"\0") + leaf).ljust(page_size, b"\0")
