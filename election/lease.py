"""What an election is asked for, whoever holds it: the lease of one cluster, as values and errors.

Owns the meaning of the words; the implementations are static, file and consul. Always true: at
most one node's grant has a deadline in the future, once its `wait_s` is over; the epoch of a grant
is higher than that of every grant before it. What stands in a key is data of strangers: it is
decoded strictly, and what cannot be read is not ours.

One object is used by two threads: one is blocked in `watch`, the other does everything else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

from litemq.errors import LiteMQError
from litemq.txlog.ids import Epoch, Txid

FORMAT: Final = 1
"""Of the claim. A node refuses to take part where a higher one stands."""

FOREVER: Final = float("inf")
MAX_VALUE_BYTES: Final = 400_000  # Consul takes 512 KiB
MAX_POSITIONS: Final = 1000

Positions: TypeAlias = dict[str, tuple[Epoch, Txid]]
"""How far a node is, by database."""

_Text = Annotated[str, Meta(max_length=300)]
_Number = Annotated[int, Meta(ge=0, le=1 << 62)]
_Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class LeaseError(LiteMQError):
    """Any answer of an election that is not what was asked for."""


class LeaseHeldError(LeaseError):
    """Another node has the lease: `holder` is its claim."""

    def __init__(self, holder: Claim) -> None:
        self.holder = holder
        super().__init__(
            f'the lease is held by node "{holder.node}" ({holder.address}) in epoch {holder.epoch}'
        )

    def __reduce__(self) -> tuple[type[LeaseHeldError], tuple[Claim]]:
        return type(self), (self.holder,)


class LeaseLostError(LeaseError):
    """The lease is not this node's any more: stop accepting commits, then ask for a new one."""


class LeaseUnavailableError(LeaseError):
    """Nobody answered in time. A lease that is held goes on until its deadline: try again."""


class LeaseDeniedError(LeaseError):
    """The server knows who asks, or does not, and refuses."""


class OtherClusterError(LeaseError):
    """What stands in the key is not of this cluster. `index` lets `watch` wait for a change."""

    def __init__(self, message: str, index: int = 0) -> None:
        self.index = index
        super().__init__(message)

    def __reduce__(self) -> tuple[type[OtherClusterError], tuple[str, int]]:
        return type(self), (str(self), self.index)


class DuplicateNodeError(LeaseError):
    """Another process announces itself under this node's name."""


class Identity(Struct, frozen=True, kw_only=True):
    """Who asks. `cluster` is "" as long as the node belongs to none; `instance` is of one process,
    `start` of one start of the node: its processes that ask have it in common, one after the other.
    """

    cluster: str
    node: str
    address: str
    start: str = field(default_factory=lambda: secrets.token_hex(8))
    instance: str = ""

    def __post_init__(self) -> None:
        if not self.instance:
            msgspec.structs.force_setattr(self, "instance", f"{self.start}-{secrets.token_hex(4)}")

    def has_been(self, claim: Claim) -> bool:
        """Whether a process of this start made the claim: this one, or one before it, now dead."""
        return claim.instance.startswith(f"{self.start}-")


class Claim(Struct, frozen=True, kw_only=True):
    """What stands in the key: who held the lease last, and in which epoch.

    `wait_s`: from when this was written, how long a holder before this one may have gone on
    believing. `witness` names what the server can be asked about the end of this claim. `beat`
    counts the renewals that were written here; it stays 0 where they are not.
    """

    format: _Number = FORMAT
    cluster: Annotated[str, Meta(min_length=1, max_length=300)]
    node: _Text
    instance: _Text
    address: _Text
    epoch: _Number
    ttl_s: _Seconds
    wait_s: _Seconds = 0.0
    positions: Annotated[Positions, Meta(max_length=MAX_POSITIONS)] = field(default_factory=dict)
    released: bool = False
    successor: _Text = ""
    witness: _Text = ""
    beat: _Number = 0


class Member(Struct, frozen=True, kw_only=True):
    """What a node says of itself; `alive` is what the server says of it, and is not stored."""

    cluster: _Text
    node: _Text
    instance: _Text
    address: _Text
    role: _Text
    epoch: _Number
    since_ms: _Number  # wall clock, Unix epoch
    why: _Text = ""
    candidate: bool = True
    fit: bool = True
    unfit: _Text = ""  # why it is not fit
    lost: _Number = 0  # it has seen the end of this epoch, and its positions are from after that
    positions: Annotated[Positions, Meta(max_length=MAX_POSITIONS)] = field(default_factory=dict)
    alive: bool = False


class View(Struct, frozen=True, kw_only=True):
    """The lease as it stands. `last` is there also when nobody holds it.

    `safe_in_s`: after so long no earlier holder believes any more that it has the lease, if nobody
    has taken it by then.
    """

    index: int
    holder: Claim | None
    last: Claim | None
    safe_in_s: float


class Grant(Struct, frozen=True, kw_only=True):
    """A lease. Commits are refused from `deadline_s` on (boot clock), unless it was renewed.

    Nothing may be accepted for the first `wait_s` seconds: an earlier holder may still believe.
    """

    epoch: Epoch
    deadline_s: float
    wait_s: float


class Lease(Protocol):
    """Every method may raise LeaseUnavailableError and LeaseDeniedError, and ends in bounded time.

    `renew` and `announce` are called at least every `pace_s` seconds, `announce` by nodes that
    hold nothing, too: it keeps them alive in the eyes of the others.
    """

    identity: Identity
    pace_s: float

    def join(self, cluster: str) -> None:
        """This node belongs to `cluster` from now on; it had none."""

    def acquire(self, epoch_seen: Epoch, positions: Mapping[str, tuple[Epoch, Txid]]) -> Grant:
        """Become the holder, in an epoch above `epoch_seen` and above all that the server knows.

        Raises LeaseHeldError, OtherClusterError. After LeaseUnavailableError nothing is held, or
        what is held unknowingly ends by itself.
        """

    def renew(self) -> float:
        """The new deadline. Raises LeaseLostError, and then nothing is held."""

    def release(self, successor: str = "") -> None:
        """Give the lease back, perhaps for one node; the claim stays, marked as released.

        The caller has stopped accepting commits before. Whatever is raised, nothing is held.
        """

    def give_back(self, epoch: Epoch) -> None:
        """Release what a process before this one held in that epoch, if it still stands.

        The caller knows that nothing of the node accepts commits under it.
        """

    def watch(self, index: int, wait_s: float) -> View:
        """The view, as soon as it differs from the one of `index`, or when `wait_s` are over.

        0 as the index answers at once. It may also return early without a change. Raises
        OtherClusterError.
        """

    def announce(self, member: Member) -> bool:
        """Say what this node is; False while the entry of a former life stands in its place.

        Raises DuplicateNodeError when that does not end.
        """

    def members(self) -> list[Member]:
        """All who ever announced themselves, by name; those that are gone are not `alive`."""

    def close(self) -> None:
        """Release what is held, leave the members, end a `watch` of the other thread."""


_claims = msgspec.json.Decoder(Claim)
_members = msgspec.json.Decoder(Member)


def summary(positions: Mapping[str, tuple[Epoch, Txid]]) -> Positions:
    """The positions as they may stand in a key: the first thousand databases by name."""
    return {name: positions[name] for name in sorted(positions)[:MAX_POSITIONS]}


def encode_claim(claim: Claim) -> bytes:
    return msgspec.json.encode(claim)


def decode_claim(raw: bytes, where: str, cluster: str, index: int = 0) -> Claim:
    """The inverse; OtherClusterError for everything that is no claim of `cluster` ("": of any)."""
    try:
        if len(raw) > MAX_VALUE_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        claim = _claims.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        reason = f"{where} holds something that no LiteMQ wrote ({error!s:.80}): choose another key"
        raise OtherClusterError(reason, index) from error
    if claim.format > FORMAT:
        newer = f"{where} is of a newer LiteMQ (format {claim.format}): update this node"
        raise OtherClusterError(newer, index)
    if cluster and claim.cluster != cluster:
        other = (
            f"{where} belongs to cluster {claim.cluster} (node {claim.node!r}), this node to "
            f"{cluster}: one key is for one cluster"
        )
        raise OtherClusterError(other, index)
    return claim


def encode_member(member: Member) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(member, alive=False))


def decode_member(raw: bytes, *, alive: bool) -> Member | None:
    """The inverse; None for what is no announcement."""
    try:
        if len(raw) > MAX_VALUE_BYTES:
            return None
        return msgspec.structs.replace(_members.decode(raw), alive=alive)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def check_cluster(identity: Identity) -> None:
    """Only a member of a cluster may hold its lease."""
    if not identity.cluster:
        raise OtherClusterError(
            f"node {identity.node!r} belongs to no cluster yet: it has to join one first"
        )
