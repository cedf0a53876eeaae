"""What a call is answered: after a wait, when commits are refused, before files were compared."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from litemq.fs import operations as edge
from litemq.fs.directories import DirectoryOperations
from litemq.fs.kernel_cache import CACHED_WRITES_S
from litemq.fs.operations import Operations
from litemq.fs.tree import ROOT_INODE, Tree


class Deposed:
    """A gatekeeper that ceases to be the primary's while somebody waits."""

    read_only = False
    refuse_errno = 0
    fenced = False
    capturing = True

    def admitted(self, _pid: int) -> bool:
        return False

    async def commits_logged(self, _database: str) -> None:
        self.read_only = True

    def wal_opened(self, _database: str) -> None:
        """Nobody listens."""


def create(operations: Operations, name: bytes) -> None:
    context: Any = SimpleNamespace(uid=os.geteuid(), gid=os.getegid(), pid=1, umask=0o022)
    asyncio.run(operations.create(ROOT_INODE, name, 0o644, os.O_RDWR, context))


def test_wal_when_the_node_is_deposed_while_its_making_waits_then_it_is_refused(
    tmp_path: Path,
) -> None:
    """A replica lets nobody but its applier write, whoever asked before it was one."""
    gatekeeper: Any = Deposed()
    operations = Operations(Tree(tmp_path, gatekeeper), gatekeeper, mount_path="/m")
    with pytest.raises(pyfuse3.FUSEError) as refused:
        create(operations, b"a.db-wal")
    assert refused.value.errno == errno.EROFS
    assert list(tmp_path.iterdir()) == []


class Cached:
    """A gatekeeper where writes are cached; pid 7 is an actor's."""

    read_only = False
    refuse_errno = 0
    capturing = False
    holding = None
    cached_writes_s = 0.02

    def __init__(self, *, fenced: bool = False, unverified: bool = False) -> None:
        self.fenced, self.unverified = fenced, unverified

    def is_actor(self, pid: int) -> bool:
        return pid == 7

    def check_writable(self) -> None:
        """Nothing is refused here."""


def of_files(directory: Path, gatekeeper: Any) -> tuple[Operations, dict[str, int]]:
    """A database, its WAL and a journal, which the kernel knows; their inodes."""
    for name in ("a.db", "a.db-wal", "a.db-journal"):
        (directory / name).write_bytes(b"x")
    tree = Tree(directory, gatekeeper, cached=True)
    tree.load()
    for file in tree.by_name.values():
        file.lookups = 1
    found = {name: file.inode for name, file in tree.by_name.items()}
    return Operations(tree, gatekeeper, mount_path="/m", cached=True), found


def context(pid: int) -> Any:
    return SimpleNamespace(pid=pid)


@pytest.mark.parametrize("name", ["a.db-wal", "a.db-journal"])
def test_write_when_commits_are_refused_then_the_kernel_may_not_cache_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It asks for the attributes of what ends a transaction. Who only looks is answered: SQLite
    takes a journal whose attributes it can't have for none, and would read half of a transaction.
    """
    operations, inodes = of_files(tmp_path, Cached(fenced=True))
    monkeypatch.setattr(edge, "may_write", lambda pid, *_: pid in (1, 7))
    with pytest.raises(pyfuse3.FUSEError) as refused:
        asyncio.run(operations.getattr(inodes[name], context(1)))
    assert refused.value.errno == errno.EROFS
    for pid in (2, 3, 7):
        assert asyncio.run(operations.getattr(inodes[name], context(pid))).st_size == 1
    assert asyncio.run(operations.getattr(inodes["a.db"], context(1))).st_size == 1


@pytest.mark.parametrize(
    ("opener", "flags", "refused"),
    [(0, os.O_RDWR, True), (0, os.O_RDONLY, False), (os.getpid(), os.O_RDWR, False)],
    ids=["unknown writer", "unknown reader", "known writer"],
)
def test_write_when_its_process_cannot_be_looked_at_then_unknown_writers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: int, flags: int, refused: bool
) -> None:
    """In another PID namespace, or another user's. A file that only known processes have open for
    writing is written by nobody else.
    """
    operations, inodes = of_files(tmp_path, Cached(fenced=True))
    monkeypatch.setattr(edge, "may_write", lambda *_: None)
    asyncio.run(operations.open(inodes["a.db-wal"], flags, context(opener)))
    with pytest.raises(pyfuse3.FUSEError) if refused else contextlib.nullcontext():
        asyncio.run(operations.getattr(inodes["a.db-wal"], context(0)))


def test_attributes_when_they_are_asked_for_then_those_of_a_wal_live_as_long_as_the_term(
    tmp_path: Path,
) -> None:
    """A journal's, too; a database's need not."""
    operations, inodes = of_files(tmp_path, Cached())
    lives = {
        name: asyncio.run(operations.getattr(inode, context(1))).attr_timeout
        for name, inode in inodes.items()
    }
    assert lives == {"a.db": CACHED_WRITES_S, "a.db-wal": 0.02, "a.db-journal": 0.02}


def test_kernel_when_it_is_to_ask_then_what_it_knows_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the files that end transactions, and of no pages: that could wait for this very loop."""
    operations, inodes = of_files(tmp_path, Cached())
    void = []

    def invalidate(inode: int, *, attr_only: bool) -> None:
        assert attr_only
        void.append(inode)

    monkeypatch.setattr(pyfuse3, "invalidate_inode", invalidate)
    operations.ask_before_writes()
    assert sorted(void) == sorted([inodes["a.db-wal"], inodes["a.db-journal"]])


def test_database_when_nobody_has_compared_it_then_programs_do_not_get_it(tmp_path: Path) -> None:
    """Those who compare it do, and all of them afterwards."""
    gatekeeper = Cached(unverified=True)
    operations, inodes = of_files(tmp_path, gatekeeper)
    with pytest.raises(pyfuse3.FUSEError) as refused:
        asyncio.run(operations.open(inodes["a.db"], os.O_RDONLY, context(1)))
    assert refused.value.errno == errno.EBUSY
    assert asyncio.run(operations.open(inodes["a.db"], os.O_RDONLY, context(7)))
    gatekeeper.unverified = False
    assert asyncio.run(operations.open(inodes["a.db"], os.O_RDONLY, context(1)))


def test_database_when_it_is_withheld_then_nobody_opens_it_and_it_is_another_file_afterwards(
    tmp_path: Path,
) -> None:
    """Not even an actor. The kernel is told nothing for long, so it asks and hears other numbers:
    with write-back it would go on with the length that it knew.
    """
    operations, inodes = of_files(tmp_path, Cached())
    tree = operations._tree
    tree.withhold(["a.db"])
    for pid in (1, 7):
        for name in ("a.db", "a.db-wal"):
            with pytest.raises(pyfuse3.FUSEError) as refused:
                asyncio.run(operations.open(inodes[name], os.O_RDONLY, context(pid)))
            assert refused.value.errno == errno.EBUSY
    entry = asyncio.run(operations.lookup(pyfuse3.ROOT_INODE, b"a.db", context(1)))
    assert (entry.st_ino, entry.entry_timeout, entry.attr_timeout) == (inodes["a.db"], 0, 0)

    (tmp_path / "a.db").write_bytes(b"xx")
    (tmp_path / "a.db-wal").unlink()
    tree.withhold([])
    entry = asyncio.run(operations.lookup(pyfuse3.ROOT_INODE, b"a.db", context(1)))
    assert entry.st_ino != inodes["a.db"]
    assert entry.st_size == 2
    assert asyncio.run(operations.open(entry.st_ino, os.O_RDONLY, context(1)))
    assert "a.db-wal" not in tree.by_name
    assert tree.captures["a.db"].wal_end == 0


HANDLERS = (
    "lookup", "getattr", "setattr", "open", "create", "release", "read", "write", "fsync", "unlink",
    "rename", "opendir", "fsyncdir", "readdir", "releasedir", "statfs", "mkdir", "rmdir",
    "symlink", "readlink",
)  # fmt: skip


class Broken:
    """What a mistake of ours looks like from outside: whatever is asked of it raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"nobody foresaw {name}")


@pytest.mark.parametrize("handler", HANDLERS)
def test_call_when_something_unforeseen_happens_then_it_is_eio_and_the_mount_goes_on(
    tmp_path: Path, handler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told once for each call and kind, with a traceback; not once for each file."""
    gatekeeper: Any = Cached()
    operations = Operations(Tree(tmp_path, gatekeeper), gatekeeper, mount_path="/m")
    broken: Any = Broken()
    for name in ("_tree", "_handles", "_virtual_handles", "_gatekeeper", "_virtual", "_listings"):
        setattr(operations, name, broken)
    call = getattr(operations, handler)
    arguments = [
        (parameter.annotation not in ("bytes",) and 1) or b"a.db"
        for parameter in inspect.signature(call).parameters.values()
    ]
    for _ in range(3):
        with pytest.raises(pyfuse3.FUSEError) as refused:
            asyncio.run(call(*arguments))
        assert refused.value.errno == errno.EIO
    told = capsys.readouterr().out
    assert told.count("a call in the mount failed") <= 1
    asyncio.run(operations.forget([(1, 1)]))


def test_handlers_when_they_are_listed_then_none_is_left_out() -> None:
    """Those that only refuse need no such care."""
    both = {**vars(DirectoryOperations), **vars(Operations)}
    own = {name for name, each in both.items() if inspect.iscoroutinefunction(each)}
    refusing = {"link", "mknod"}
    assert {name for name in own if not name.startswith("_")} == {*HANDLERS, *refusing, "forget"}
