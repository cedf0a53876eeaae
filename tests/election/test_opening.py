"""From `[election]` to the lease it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from litemq import config
from litemq.election.lease import LeaseUnavailableError
from litemq.election.opening import open_lease

NODE = """
[node]
name = "a"
data-dir = "{base}/data"
[mount]
path = "{base}/mnt"
[stream]
listen = "tcp://127.0.0.1:7100"
[election]
"""


@pytest.mark.parametrize(
    ("election", "kind", "pace_s"),
    [
        ('primary = "tcp://127.0.0.1:7100"', "StaticLease", 1.0),
        ('kind = "file"\npath = "{base}/lock"', "FileLease", 0.25),
        ('kind = "consul"\n[election.consul]\nkey = "k"\nttl = "1500ms"', "ConsulLease", 0.5),
    ],
)
def test_lease_when_it_is_opened_then_it_is_what_the_configuration_says(
    tmp_path: Path, election: str, kind: str, pace_s: float
) -> None:
    """The node's name and address go in, and nobody is asked for anything yet."""
    file = tmp_path / "node.toml"
    file.write_text((NODE + election).replace("{base}", str(tmp_path)))
    lease = open_lease(config.load(file), "c", "s")
    assert type(lease).__name__ == kind
    assert lease.pace_s == pace_s
    assert (lease.identity.cluster, lease.identity.node) == ("c", "a")
    assert lease.identity.address == "tcp://127.0.0.1:7100"
    assert lease.identity.instance != open_lease(config.load(file), "c", "s").identity.instance
    assert list(tmp_path.iterdir()) == [file]
    if kind != "ConsulLease":
        lease.close()
        with pytest.raises(LeaseUnavailableError):
            lease.watch(0, 0)
