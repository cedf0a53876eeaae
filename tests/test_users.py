"""Other users in the mount, and a node that is not root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import Cluster
from tools import run

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]

NOBODY = 65534


def as_nobody(*command: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def open_cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(sections={"mount": {"allow-other": True}})


def test_mount_when_its_mode_is_changed_then_other_users_may_work_in_it(
    open_cluster: Cluster,
) -> None:
    """They own what they make; the mode of the directory is kept over a restart."""
    primary = open_cluster.primary
    mount = primary.mount
    assert "Permission denied" in as_nobody("touch", "mine", directory=mount).stderr
    run("chmod", "1777", mount, directory=mount)
    assert as_nobody("touch", "mine", directory=mount).returncode == 0
    assert (mount / "mine").stat().st_uid == NOBODY
    with primary.connect("app.db") as app:
        app.script("CREATE TABLE t(x)")
    open_cluster.agree("app.db")
    replica = open_cluster.replicas[0].mount
    assert as_nobody("cp", "app.db", "/dev/null", directory=replica).returncode == 0
    assert "Permission denied" in as_nobody("dd", "of=app.db", directory=replica).stderr
    primary.stop()
    primary.start()
    assert mount.stat().st_mode & 0o7777 == 0o1777
    assert as_nobody("rm", "mine", directory=mount).returncode == 0


def test_mount_when_its_owner_would_be_kept_out_then_the_node_still_works(
    open_cluster: Cluster,
) -> None:
    """chmod 000 keeps others out, never the node."""
    primary = open_cluster.primary
    run("chmod", "000", primary.mount, directory=primary.mount)
    assert as_nobody("ls", directory=primary.mount.parent).returncode == 0
    assert as_nobody("ls", primary.mount, directory=primary.mount.parent).returncode != 0
    with primary.connect("app.db") as app:
        app.script("CREATE TABLE t(x)")
    open_cluster.agree("app.db")
