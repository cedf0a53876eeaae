"""A fast tenth of SQLite's own suite: in the mount its tests end as they do natively.

`make sqlite-suite` runs all of it, and builds what this needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import require_program
from nodes import Cluster
from sqlite_suite import Suite
from suite_files import TESTFIXTURE, chosen

pytestmark = pytest.mark.fuse

#: take half a minute and more
SLOW = {"bigfile2", "thread005", "tkt2686", "vacuum6", "walslow"}


@pytest.mark.timeout(300)
def test_suite_when_run_in_the_mount_then_errors_and_counts_are_as_natively(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """And the replica has what each file leaves."""
    if not TESTFIXTURE.exists():
        require_program("testfixture")  # deploy/sqlite-suite.sh builds it
    cluster = new_cluster(replicas=1)
    cluster.primary.announce("the database was overwritten by what is none")  # some tests do so
    cluster.primary.announce("can't read the database")  # delete_db copies half a transaction
    suite = Suite(tmp_path, cluster)
    files = [path for path in chosen(tenth=True) if path.stem not in SLOW]
    assert len(files) > 20
    compared = [suite.compare_twice(path) for path in files]
    assert sum(each.native.tests for each in compared) > 500
    assert not [each for each in compared if not each.same]
