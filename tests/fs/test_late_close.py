"""Unlinked files: their names go at once, their blocks soon."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from waiting import eventually

from litemq.fs.late_close import LateClose


def held(path: Path) -> list[str]:
    """What this process still holds of an unlinked file."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target == f"{path} (deleted)":
            found.append(name)
    return found


def test_unlink_when_called_then_the_name_is_gone_at_once_and_the_file_soon(
    tmp_path: Path,
) -> None:
    """Nobody can open it any more, and no descriptor stays."""
    path = tmp_path / "a.db-journal"
    path.write_bytes(bytes(10_000))
    LateClose().unlink(str(path))
    assert not path.exists()
    eventually(lambda: not held(path))


def test_unlink_when_there_is_no_descriptor_left_then_the_file_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a convenience: an unlink does not fail for it."""

    def refused(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path = tmp_path / "a.db-journal"
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        LateClose().unlink(str(path))
    assert not path.exists()


def test_unlink_when_there_is_no_thread_left_then_the_file_goes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And soon, when there is one again."""
    files, path = LateClose(), tmp_path / "a.db-journal"
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        files.unlink(str(path))
    assert not path.exists()
    path.touch()
    files.unlink(str(path))
    eventually(lambda: not held(path))
    assert not path.exists()


def no_thread(_self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_unlink_when_there_is_no_such_file_then_it_says_so(tmp_path: Path) -> None:
    """As os.unlink does."""
    with pytest.raises(FileNotFoundError):
        LateClose().unlink(str(tmp_path / "none"))


def test_close_when_the_disk_refuses_it_then_the_next_are_closed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors do not pile up behind one bad file."""
    close, bad, failed = os.close, tmp_path / "bad", threading.Event()

    def refuses_one(fd: int) -> None:
        is_bad = os.readlink(f"/proc/self/fd/{fd}").startswith(str(bad))
        close(fd)
        if is_bad:
            failed.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    files, good = LateClose(), tmp_path / "good"
    bad.touch()
    good.touch()
    monkeypatch.setattr(os, "close", refuses_one)
    for path in (bad, good):
        files.unlink(str(path))
    assert failed.wait(20)
    eventually(lambda: not held(good))
