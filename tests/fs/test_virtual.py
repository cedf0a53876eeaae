"""`NAME-pos` and `.primary`: read by name, never listed, and not in the way of real files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from litemq.fs import misnamed
from litemq.fs.operations import Operations
from litemq.fs.tree import ROOT_INODE, Tree

APPLIER = 7


class Node:
    """A gatekeeper whose databases have positions."""

    read_only = fenced = unverified = False
    refuse_errno = 0
    capturing = True
    holding = None
    cached_writes_s = 0.0

    def __init__(self, *databases: str) -> None:
        self.databases = databases

    def admitted(self, pid: int) -> bool:
        return pid == APPLIER

    def is_actor(self, pid: int) -> bool:
        return pid == APPLIER

    async def commits_logged(self, _database: str) -> None:
        """All are."""

    async def position_is_fresh(self, _database: str) -> None:
        """It is."""

    async def store_in_page_cache(self, *_: object) -> None:
        """There is no kernel."""

    def primary_text(self) -> bytes:
        return b"a tcp://a\n"

    def position_text(self, database: str) -> bytes | None:
        return b"1/1/1\n" if database in self.databases else None

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **__: None


def context(pid: int = 1) -> Any:
    return SimpleNamespace(uid=os.geteuid(), gid=os.getegid(), pid=pid, umask=0o022)


def run(call: Coroutine[Any, Any, Any]) -> Any:
    """The call's answer, or its errno."""
    try:
        return asyncio.run(call)
    except pyfuse3.FUSEError as error:
        return error.errno


def of(directory: Path, *databases: str, files: tuple[str, ...] = ()) -> Operations:
    for name in (*databases, *files):
        (directory / name).write_bytes(b"x")
    gatekeeper: Any = Node(*databases)
    tree = Tree(directory, gatekeeper)
    tree.load()
    return Operations(tree, gatekeeper, mount_path="/m")


def create(operations: Operations, name: bytes, pid: int = 1) -> Any:
    return run(operations.create(ROOT_INODE, name, 0o644, os.O_RDWR, context(pid)))


def listed(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, chunk: int = 100
) -> list[bytes]:
    """As the kernel reads a directory: `chunk` names at a time, until none comes."""
    found: list[bytes] = []
    room = 0

    def reply(_token: Any, name: bytes, _attr: Any, place: int) -> bool:
        nonlocal room, start
        if not room:
            return False
        room, start = room - 1, place
        found.append(name)
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    token: Any = None
    handle, start = run(operations.opendir(ROOT_INODE, context())), 0
    while True:
        before, room = len(found), chunk
        run(operations.readdir(handle, start, token))
        if len(found) == before:
            run(operations.releasedir(handle))
            return found


@pytest.mark.parametrize("name", [b"a.db-pos", b".primary"])
def test_virtual_file_when_it_is_named_then_it_is_read_only(tmp_path: Path, name: bytes) -> None:
    """Nothing that is done to it is a success that does nothing."""
    operations = of(tmp_path, "a.db")
    inode = run(operations.lookup(ROOT_INODE, name, context())).st_ino
    assert run(operations.getattr(inode, context())).st_mode & 0o777 == 0o444
    handle = run(operations.open(inode, os.O_RDONLY, context())).fh
    assert run(operations.read(handle, 0, 100)).endswith(b"\n")
    fields: Any = SimpleNamespace()
    attr = pyfuse3.EntryAttributes()
    refused = [
        operations.open(inode, os.O_RDWR, context()),
        operations.setattr(inode, attr, fields, None, context()),
        operations.unlink(ROOT_INODE, name, context()),
        operations.create(ROOT_INODE, name, 0o644, os.O_RDWR, context()),
        operations.rename(ROOT_INODE, name, ROOT_INODE, b"b.db", 0, context()),
        operations.rename(ROOT_INODE, b"a.db", ROOT_INODE, name, 0, context()),
    ]
    assert [run(call) for call in refused] == [errno.EACCES] * len(refused)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.db"]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_directory_when_it_is_listed_then_it_has_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Each once, however few go into one answer."""
    operations = of(tmp_path, "a.db", "b.db", files=("b.db-wal", "notes"))
    assert listed(operations, monkeypatch, chunk) == [b"a.db", b"b.db", b"b.db-wal", b"notes"]


def test_directory_when_files_go_while_it_is_read_then_none_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `rm -r` does it: what is deleted moves nothing."""
    operations = of(tmp_path, *(f"{number}.db" for number in range(9)))
    found: list[bytes] = []

    def reply(_token: Any, name: bytes, _attr: Any, _place: int) -> bool:
        if len(found) % 3 == 2 and found[-1] != b"rest":
            found.append(b"rest")
            return False
        found.append(name)
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    token: Any = None
    handle = run(operations.opendir(ROOT_INODE, context()))
    run(operations.readdir(handle, 0, token))
    for name in found[:2]:
        run(operations.unlink(ROOT_INODE, name, context()))
    found.clear()
    run(operations.readdir(handle, 2, token))
    assert found[:2] == [b"2.db", b"3.db"]


def test_position_when_there_is_no_such_database_then_the_name_is_free(tmp_path: Path) -> None:
    """A real file of that name is a database like any other, and stays when the other one comes."""
    operations = of(tmp_path, "a.db")
    assert run(operations.lookup(ROOT_INODE, b"shop-pos", context())) == errno.ENOENT
    assert not isinstance(create(operations, b"shop-pos"), int)
    gatekeeper: Any = operations._gatekeeper
    gatekeeper.databases = ("a.db", "shop", "shop-pos")
    assert not isinstance(create(operations, b"shop"), int)
    found = run(operations.lookup(ROOT_INODE, b"shop-pos", context()))
    assert found.st_size == 0
    assert run(operations.unlink(ROOT_INODE, b"shop-pos", context())) is None
    assert run(operations.lookup(ROOT_INODE, b"shop-pos", context())).st_size > 0


def test_applier_when_the_primary_has_such_a_file_then_it_can_be_made(tmp_path: Path) -> None:
    """Databases come in any order: `shop` may be here before `shop-pos`."""
    operations = of(tmp_path, "shop")
    assert run(operations.lookup(ROOT_INODE, b"shop-pos", context(APPLIER))) == errno.ENOENT
    assert create(operations, b"shop-pos") == errno.EACCES
    assert not isinstance(create(operations, b"shop-pos", APPLIER), int)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "name", ["audit-wal", "trading-journal", "x-shm", "n" * 201, "etilqs_1", "caf\udce9"]
)
def test_database_when_its_name_is_none_then_that_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cached: bool
) -> None:
    """When its first bytes are written, when it is renamed to that name, and when it was there at
    the start; and it is still there then.
    """
    told: list[str] = []
    monkeypatch.setattr(misnamed, "tell", told.append)
    gatekeeper: Any = Node()
    operations = Operations(
        Tree(tmp_path, gatekeeper, cached=cached), gatekeeper, mount_path="/m", cached=cached
    )
    handle = create(operations, os.fsencode(name))[0].fh
    asyncio.run(operations.write(handle, 0, b"SQLite format 3\0" + bytes(84)))
    assert told == [name]
    again = Tree(tmp_path, gatekeeper, cached=cached)
    again.load()
    assert told == [name, name]
    assert list(again.by_name) == [name]
    again.by_name[name].appeared()
    assert told == [name] * 3
