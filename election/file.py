"""Election among the nodes of one machine: whoever holds the kernel's lock on one file is it.

Owns `PATH` (the lock, and in it a random name of this very file) and the directory `PATH.d` beside
it: `claim.json`, and for each node `node-NAME.json` with a `node-NAME.lock`. The kernel frees a
lock at the moment in which its process is gone, and not before: a holder that is stopped (SIGSTOP)
keeps the lease, so a grant has no deadline. Always true: the claim is written by the holder of the
lock only, atomically.

Who holds the lease and who accepts commits are two processes of a node; the first may die alone.
So the mount holds a second lock, on the next byte of `PATH`, for as long as it accepts commits. Two
mounts never do; and as long as one does, the lease counts as held, and nobody gets it.

Removing `PATH` under a running holder makes a second lock. It is noticed: the holder's next
`renew` fails, and who takes the new file waits `MISSING_WAIT_S` first, which is longer than
`pace_s`. A holder that is stopped meanwhile is beyond that; its epoch is what others refuse then.

`watch` looks every 10 ms. A lock can't be waited for without taking it, and inotify tells of the
close that precedes the release, not of the release; a look costs some 30 us.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from inotify_simple import INotify, flags

from litemq.election.kernel_lock import KernelLock, is_locked
from litemq.election.lease import (
    FOREVER,
    Claim,
    DuplicateNodeError,
    Grant,
    Identity,
    LeaseDeniedError,
    LeaseHeldError,
    LeaseLostError,
    LeaseUnavailableError,
    Member,
    View,
    check_cluster,
    decode_claim,
    decode_member,
    encode_claim,
    encode_member,
    summary,
)
from litemq.errors import StorageError
from litemq.txlog.durable import write_atomically
from litemq.txlog.ids import Epoch, Txid

MISSING_WAIT_S: Final = 1.0
# That somebody died, and with him his lock, no event tells.
_LOOK_S: Final = 0.01
_UNSETTLED_LOOK_S: Final = 0.001
# Who takes or releases the lease needs a moment; a view of that would only make others ask in vain.
_UNSETTLED_S: Final = 1.0
_NAME_BYTES: Final = 32
# Of the lock file: the lease, and the mount that accepts commits.
_COMMITS_BYTE: Final = 1
_BYTES: Final = 2


def commits_lock(path: Path) -> KernelLock:
    """What a mount holds while it accepts commits; `path` is the lock file."""
    return KernelLock(path, byte=_COMMITS_BYTE)


class FileLease:
    """See `Lease`. `path` is the lock file, the same for all nodes; its directory exists."""

    pace_s = 0.25

    def __init__(self, identity: Identity, path: Path) -> None:
        self.identity = identity
        self._path = path
        self._directory = path.with_name(path.name + ".d")
        self._claim_path = self._directory / "claim.json"
        self._lock = KernelLock(path)
        self._name_lock = KernelLock(self._node_file("lock"))
        self._claim: Claim | None = None
        self._safe_at_s = 0.0
        self._announced = b""
        self._closed = threading.Event()

    def join(self, cluster: str) -> None:
        self.identity = msgspec.structs.replace(self.identity, cluster=cluster)

    def acquire(self, epoch_seen: Epoch, positions: Mapping[str, tuple[Epoch, Txid]]) -> Grant:
        check_cluster(self.identity)
        self._claim = None
        with self._disk():
            self._directory.mkdir(mode=0o770, exist_ok=True)
            if not self._lock.take():
                holder = self._read()
                if holder is None:
                    raise LeaseUnavailableError(f"{self._path} is being taken by another node")
                raise LeaseHeldError(holder)
            try:
                if is_locked(self._path, byte=_COMMITS_BYTE):
                    raise LeaseUnavailableError(
                        f"a mount still accepts commits under an earlier lease of {self._path}"
                    )
                return self._take(epoch_seen, positions)
            except BaseException:
                self._lock.free()
                raise

    def _take(self, epoch_seen: Epoch, positions: Mapping[str, tuple[Epoch, Txid]]) -> Grant:
        if not self._witness():
            self._path.write_text(secrets.token_hex(_NAME_BYTES // 2), encoding="ascii")
        last = self._read()
        wait_s = self._safe_in_s(last)
        known = [epoch_seen, last.epoch if last else 0]
        known += [member.epoch for member in self._read_members()]
        claim = Claim(
            cluster=self.identity.cluster,
            node=self.identity.node,
            instance=self.identity.instance,
            address=self.identity.address,
            epoch=max(known) + 1,
            ttl_s=0.0,
            wait_s=wait_s,
            positions=summary(positions),
            witness=self._witness(),
        )
        self._write(claim)
        self._safe_at_s = time.monotonic() + wait_s
        return Grant(epoch=claim.epoch, deadline_s=FOREVER, wait_s=wait_s)

    def renew(self) -> float:
        if self._claim is None:
            raise LeaseLostError("no lease is held")
        if not self._lock.held:
            self._claim = None
            self._lock.free()
            raise LeaseLostError(f"{self._path} was removed or replaced while it was locked")
        if self._claim.wait_s and time.monotonic() >= self._safe_at_s:
            # From now on a successor need not wait for whom this node has waited for.
            with self._disk():
                self._write(msgspec.structs.replace(self._claim, wait_s=0.0))
        return FOREVER

    def release(self, successor: str = "") -> None:
        claim, self._claim = self._claim, None
        if claim is None:
            return
        try:
            if self._lock.held:
                wait_s = max(0.0, self._safe_at_s - time.monotonic())
                with self._disk():
                    self._write(
                        msgspec.structs.replace(
                            claim, released=True, successor=successor, wait_s=wait_s
                        )
                    )
        finally:
            self._claim = None
            self._lock.free()

    def give_back(self, epoch: Epoch) -> None:
        """The kernel has done it."""

    def watch(self, index: int, wait_s: float) -> View:
        with self._disk(), INotify() as claims:
            with contextlib.suppress(OSError):  # no directory yet: then time alone ends a pause
                claims.add_watch(self._directory, flags.MOVED_TO)
            return self._watch(index, wait_s, claims)

    def _watch(self, index: int, wait_s: float, claims: INotify) -> View:
        end_s, unsettled_s = time.monotonic() + wait_s, 0.0
        while True:
            if self._closed.is_set():
                raise LeaseUnavailableError("the election of this node has ended")
            with self._disk():
                view = self._view()
                # taken, and the claim not written yet; or released, and the lock not free yet
                settled = view.holder is not None or not is_locked(self._path)
            now_s = time.monotonic()
            remaining_s = end_s - now_s
            unsettled_s = 0.0 if settled else unsettled_s or now_s
            patient = not settled and now_s - unsettled_s < _UNSETTLED_S
            if remaining_s <= 0 or (view.index != index and not patient):
                return view
            look_s = _LOOK_S if settled else _UNSETTLED_LOOK_S
            claims.read(timeout=int(min(look_s, remaining_s) * 1000) + 1)

    def announce(self, member: Member) -> bool:
        value = encode_member(member)
        with self._disk():
            self._directory.mkdir(mode=0o770, exist_ok=True)
            if not self._name_lock.take():
                raise DuplicateNodeError(
                    f"another process takes part in {self._path} as node {self.identity.node!r}: "
                    "give one of the two another [node] name"
                )
            if value != self._announced or not self._node_file("json").exists():
                # of no use to anybody after a power loss
                write_atomically(self._node_file("json"), value, sync=False)
                self._announced = value
        return True

    def members(self) -> list[Member]:
        with self._disk():
            return list(self._read_members())

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(LeaseUnavailableError, LeaseDeniedError):
            self.release()
        self._lock.free()
        self._name_lock.free()

    def _view(self) -> View:
        locked = is_locked(self._path, count=_BYTES)
        witness, raw = self._witness(), self._read_raw()
        index = 1 + zlib.crc32(f"{witness} {locked} ".encode() + raw)
        last = self._decode(raw, index)
        holder = last if last and locked and self._stands(last, witness) else None
        return View(index=index, holder=holder, last=last, safe_in_s=self._safe_in_s(last))

    def _safe_in_s(self, last: Claim | None) -> float:
        if last is None or not (last.released or self._stands(last, self._witness())):
            return MISSING_WAIT_S
        return last.wait_s

    @staticmethod
    def _stands(claim: Claim, witness: str) -> bool:
        """Whether the claim was made under the lock file that is there now."""
        return not claim.released and claim.witness == witness

    def _witness(self) -> str:
        """Which lock file it is that is there: an inode's number would be given again."""
        try:
            return self._path.read_bytes()[:_NAME_BYTES].decode("ascii", "replace")
        except FileNotFoundError:
            return ""

    def _read(self) -> Claim | None:
        return self._decode(self._read_raw())

    def _decode(self, raw: bytes, index: int = 0) -> Claim | None:
        cluster = self.identity.cluster
        return decode_claim(raw, str(self._claim_path), cluster, index) if raw else None

    def _read_raw(self) -> bytes:
        try:
            return self._claim_path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, claim: Claim) -> None:
        write_atomically(self._claim_path, encode_claim(claim))
        self._claim = claim

    def _node_file(self, suffix: str, node: str | None = None) -> Path:
        return self._directory / f"node-{node or self.identity.node}.{suffix}"

    def _read_members(self) -> Iterator[Member]:
        for path in sorted(self._directory.glob("node-*.json")):
            member = decode_member(path.read_bytes(), alive=is_locked(path.with_suffix(".lock")))
            if member is not None:
                yield member

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """What the disk refuses, as errors of an election."""
        try:
            yield
        except (OSError, StorageError) as error:
            name = getattr(error, "filename", None) or self._path
            text = f"{name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise LeaseDeniedError(f"{text}: all nodes must be able to write it") from error
            raise LeaseUnavailableError(text) from error
