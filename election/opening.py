"""From a configuration to the lease it asks for."""

from __future__ import annotations

from litemq.config import Config
from litemq.election.file import FileLease, commits_lock
from litemq.election.kernel_lock import KernelLock
from litemq.election.lease import Identity, Lease
from litemq.election.static import StaticLease


def open_lease(config: Config, cluster: str, start: str) -> Lease:
    """The lease of `[election]`, for one process of this node; `cluster` is "" if it has none.
    `start`: see `Identity`.

    Nothing is asked of anyone yet.
    """
    election = config.election
    identity = Identity(
        cluster=cluster, node=config.node.name, address=config.stream.listen, start=start
    )
    if election.kind == "consul":
        # Here, since its client library takes a tenth of a second to import.
        from litemq.election.consul_lease import ConsulLease

        assert election.consul.key is not None
        return ConsulLease(
            identity,
            election.consul.address,
            election.consul.key,
            election.consul.ttl_s,
            election.consul.token.reveal(),
        )
    if election.kind == "file":
        assert election.path is not None
        return FileLease(identity, election.path)
    return StaticLease(identity, config.static_primary)


def open_commits_lock(config: Config) -> KernelLock | None:
    """What the mount of a primary has to hold; None where the end of its lease is known to it."""
    election = config.election
    return commits_lock(election.path) if election.kind == "file" and election.path else None
