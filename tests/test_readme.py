"""The five minutes of the README, typed as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import require_program
from commands import environment
from nodes import Cluster

pytestmark = pytest.mark.fuse

README = (Path(__file__).parents[1] / "README.md").read_text()
TOUR = README.partition("## Five minutes")[2].partition("\n## ")[0]


def test_tour_when_typed_then_every_command_does_what_is_said(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Names, paths and ports are the test's, everything else is the README's."""
    require_program("sqlite3")
    assert [re.search('name = "(.)"', each)[1] for each in _blocks("toml")] == ["a", "b"]  # type: ignore[index]
    start, tour = _blocks("sh")
    assert start.split("\n") == [f".venv/bin/litemq up --config {each}.toml" for each in "ab"]
    cluster = new_cluster(replicas=1)
    a, b = cluster.nodes
    places = {
        "/srv/litemq-a": str(a.mount),
        "/srv/litemq-b": str(b.mount),
        "a.toml": str(a.config_path),
        "b.toml": str(b.config_path),
        "/tmp/notes.db": str(tmp_path / "notes.db"),
        ".venv/bin/litemq": f"{sys.executable} -m litemq",
    }
    for line in tour.split("\n"):
        command, _, said = line.partition("  #")
        for place, here in places.items():
            command = command.replace(place, here)
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        if said.strip() in ("hello", "attempt to write a readonly database"):
            assert said.strip() in done.stdout + done.stderr, done
        assert (done.returncode != 0) == ("readonly" in said), (line, done)
        for database in ("notes.db", "again.db"):
            if (a.mount / database).exists():
                cluster.agree(database)


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)\n```", TOUR, re.DOTALL)
