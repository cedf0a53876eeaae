"""Owners, modes and inode numbers: as on the disk behind the mount."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litemq.fs import owners
from litemq.fs.files import File
from litemq.fs.tree import FIRST_OWN_INODE, Tree

NODE, OTHER = 1000, 2000
GROUP, SHARED = 1000, 3000


def new_file(path: Path) -> File:
    gatekeeper: Any = None
    return File(2, path.name, str(path), gatekeeper)


def tree_of(directory: Path) -> Tree:
    gatekeeper: Any = SimpleNamespace(capturing=False)
    tree = Tree(directory, gatekeeper)
    tree.load()
    return tree


@pytest.fixture
def not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the code can see: the node is an ordinary user."""
    monkeypatch.setattr(os, "geteuid", lambda: NODE)
    monkeypatch.setattr(os, "getegid", lambda: GROUP)
    monkeypatch.setattr(owners.pyfuse3, "get_sup_groups", lambda _pid: {SHARED})


@pytest.mark.parametrize(
    ("directory", "uid", "gid", "mode", "made"),
    [
        (0o777, NODE, GROUP, 0o600, True),
        (0o777, 0, 0, 0o600, True),
        (0o777, OTHER, OTHER, 0o644, False),
        (0o777, OTHER, OTHER, 0o666, True),
        (0o777, OTHER, GROUP, 0o664, True),
        (0o777, OTHER, GROUP, 0o606, False),
        (0o1777, OTHER, OTHER, 0o666, False),
    ],
)
def test_file_when_its_maker_is_another_user_then_the_maker_can_use_it_or_it_is_not_made(
    tmp_path: Path, not_root: None, directory: int, uid: int, gid: int, mode: int, made: bool
) -> None:
    """Its owner is the node, so group and others count, and a sticky directory forbids its end."""
    tmp_path.chmod(directory)
    context: Any = SimpleNamespace(uid=uid, gid=gid, pid=1)
    file = new_file(tmp_path / "a.db")
    if made:
        owners.create_for(file, mode, context)
        file.close()
    else:
        with pytest.raises(PermissionError):
            owners.create_for(file, mode, context)
    assert [each.name for each in tmp_path.iterdir()] == ["a.db"] * made


def test_file_when_the_directory_hands_its_group_on_then_members_of_that_count(
    tmp_path: Path, not_root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set-group-ID bit, as it is used for folders that a group shares."""
    real = os.stat

    def shared(path: Any, **options: Any) -> Any:
        found = real(path, **options)
        return SimpleNamespace(st_mode=found.st_mode | 0o2000, st_gid=SHARED)

    monkeypatch.setattr(os, "stat", shared)
    context: Any = SimpleNamespace(uid=OTHER, gid=OTHER, pid=1)
    file = new_file(tmp_path / "a.db")
    owners.create_for(file, 0o660, context)
    file.close()


def test_file_when_its_mode_forbids_writing_then_it_can_still_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0444 under a node that is not root; a writer is refused, until the mode is another."""
    path = tmp_path / "a.db"
    path.write_bytes(b"content")
    real, locked = os.open, True

    def forbidding(name: Any, flags: int, *more: Any, **options: Any) -> int:
        if locked and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return real(name, flags, *more, **options)

    monkeypatch.setattr(os, "open", forbidding)
    file = new_file(path)
    file.open(writing=False)
    number = file.fd
    assert file.read(0, 10) == b"content"
    with pytest.raises(PermissionError):
        file.open(writing=True)
    assert (file.handles, file.writers) == (1, 0)
    locked = False
    file.open(writing=True)
    assert file.fd == number
    os.pwrite(file.fd, b"C", 0)
    assert path.read_bytes() == b"Content"
    file.close()


def test_inode_when_the_mount_begins_anew_then_it_is_the_same(tmp_path: Path) -> None:
    """That of the backing file: of old ones and of new ones."""
    (tmp_path / "old.db").write_bytes(b"x")
    tree = tree_of(tmp_path)
    new = tree.add("new.db")
    new.create(0o644)
    tree.created(new)
    before = {name: file.inode for name, file in tree.by_name.items()}
    assert before == {file.name: file.stat().st_ino for file in tree_of(tmp_path).by_name.values()}
    assert before == {file.name: file.inode for file in tree_of(tmp_path).by_name.values()}
    assert tree.by_inode == {file.inode: file for file in tree.by_name.values()}
    new.close()


def test_inode_when_the_kernel_knows_a_file_that_is_gone_then_no_other_gets_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk gives the number away at once; here it is free when the kernel has forgotten."""
    (tmp_path / "a.db").write_bytes(b"x")
    tree = tree_of(tmp_path)
    old = tree.by_name["a.db"]
    old.lookups = 1
    gone = tree.detach(old)
    number = old.inode  # the disk's next file has it again
    new = tree.add("a.db")
    assert (tree.by_inode[number], new.inode >= FIRST_OWN_INODE) == (gone, True)
    tree.detach(new)
    gone.lookups = 0
    tree.release_if_unused(gone)
    assert tree.add("a.db").inode == number
