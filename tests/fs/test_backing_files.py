"""The scan of the files behind a mount."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from litemq.fs.backing_files import walk


def test_files_when_walked_then_folders_come_first_and_links_are_not_followed(
    tmp_path: Path,
) -> None:
    """A link to the folder that it is in would never end."""
    (tmp_path / "b/deep").mkdir(parents=True)
    (tmp_path / "b/deep/x.db").write_bytes(b"")
    (tmp_path / "b/loop").symlink_to("../b")
    (tmp_path / "a.db").write_bytes(b"")
    names = [name for name, _ in walk(tmp_path)]
    assert names == ["a.db", "b", "b/deep", "b/deep/x.db", "b/loop"]


def test_folder_when_it_cannot_be_read_then_all_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told. Of the top, there is nothing else."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"")
    real, refused = os.scandir, str(tmp_path / "b")

    def scandir(path: str) -> Any:
        if path.rstrip("/") == refused.rstrip("/"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [name for name, _ in walk(tmp_path)] == ["a", "a/x", "b", "c", "c/x"]
    assert "can't read a folder" in capsys.readouterr().out
    refused = str(tmp_path)
    with pytest.raises(PermissionError):
        list(walk(tmp_path))
