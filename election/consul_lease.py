"""Election through Consul: a lock on one key, held by a session that lives as long as a TTL check.

A *life* is a service, its TTL check and a session bound to it, under names that are never used
again. The agent counts the TTL from when it received the last pass; when it runs out, the check
turns critical with the words "TTL expired" and the servers end the session in the same step, which
frees the key at once (lock-delay 0). A session also ends when the check or the agent goes away,
when the agent restarts, and by hand; then the holder may go on believing until its deadline.

Invariants
- The deadline counts from before the pass was sent, so the check expires after it.
- A pass counts only if its answer came before the deadline it extends: one that comes later may
  have revived a check whose end is already on its way to the servers. Such a life is abandoned.
- A pass alone proves nothing (the agent answers it without the servers): `renew` also writes the
  claim anew, on the condition that the key is as this holder left it. So whoever believes has
  written the key within a TTL.
- A claim is written in the step that takes the lock, on the condition that the key has not changed
  since it was read: its epoch is above all that were ever there.

Consequences
- Where the last claim was released, or its check expired, nobody believes any more. In any other
  case whoever takes the lock waits for the TTL first.
- Nor does a holder believe whose claim has stood still for a TTL since somebody saw it, as after
  the death of its machine, agent included: serf alone would take seconds to notice. Whoever watches
  releases it in its place, on the condition that it still stands still; which is fair only if
  Consul answered all that time, or the holder could not have written.
- A lock that was got although the answer was lost is either found and kept, or belongs to an
  abandoned life: its session is destroyed as soon as Consul answers, and ends by itself if not.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from litemq.election import clock
from litemq.election.consul import ConsulAgent, Entry, SessionGoneError
from litemq.election.lease import (
    Claim,
    DuplicateNodeError,
    Grant,
    Identity,
    LeaseError,
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
from litemq.election.stillness import Stillness
from litemq.txlog.ids import Epoch, Txid

CALL_S: Final = 1.0
"""How long one method may take; a holder's take less, and `watch` waits longer if it is to."""

# Of the TTL, against clocks that do not run at the same speed, and threads that wake late.
_MARGIN: Final = 0.05
_LEAST_MARGIN_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 0.02
_TRIES: Final = 3


class _Life:
    """`good_until_s`: the check cannot have expired before (boot clock)."""

    __slots__ = ("good_until_s", "service", "session")

    def __init__(self, service: str, good_until_s: float) -> None:
        self.service = service
        self.session = ""
        self.good_until_s = good_until_s


class ConsulLease:
    """See `Lease`. `key` is the cluster's, `ttl_s` the same on all of its nodes."""

    def __init__(
        self, identity: Identity, address: str, key: str, ttl_s: float, token: str = ""
    ) -> None:
        self.identity = identity
        self.pace_s = ttl_s / 3
        self._key = key
        self._where = f"Consul's key {key}"
        self._ttl_s = ttl_s
        self._believed_s = ttl_s - max(_LEAST_MARGIN_S, ttl_s * _MARGIN)
        self._agent = ConsulAgent(address, token)
        self._watcher = ConsulAgent(address, token)
        self._watcher_failed = False
        self._still = Stillness()
        self._shown: tuple[str, Claim | None] | None = None  # by the last view: session, claim
        self._life: _Life | None = None
        self._abandoned: list[_Life] = []
        self._claim: Claim | None = None  # what is held, by the life of its witness
        self._written = 0  # the index of its last change
        self._safe_at_s = 0.0
        self._announced = b""
        self._free: tuple[int, Entry] | None = None  # the key, if it was free when last seen
        self._rival: tuple[str, float] | None = None  # its session, and since when

    def join(self, cluster: str) -> None:
        self.identity = msgspec.structs.replace(self.identity, cluster=cluster)

    # --- the lease

    def acquire(self, epoch_seen: Epoch, positions: Mapping[str, tuple[Epoch, Txid]]) -> Grant:
        check_cluster(self.identity)
        self._claim = None
        self._agent.end_by(clock.now_s() + CALL_S)
        for _ in range(_TRIES):
            with contextlib.suppress(SessionGoneError):
                grant = self._try(epoch_seen, positions)
                if grant is not None:
                    return grant
        raise LeaseUnavailableError(f"{self._where} changes faster than it can be read: try again")

    def _try(self, epoch_seen: Epoch, positions: Mapping[str, tuple[Epoch, Txid]]) -> Grant | None:
        """None if the key changed under our hands."""
        life = self._life or self._living()  # it is passed below
        # What `watch` saw may be old: then the lock is refused, and the next try reads the key.
        seen, self._free = self._free, None
        index, entry = seen or self._agent.read(self._key)
        last = self._decode(entry)
        if entry is not None and entry.session not in ("", life.session):
            assert last is not None
            raise LeaseHeldError(last)
        known = [epoch_seen, index, last.epoch if last else 0]
        known += [member.epoch for member in self._members()]
        wait_s = self._wait_s(entry, last)
        # Passed again after the key was seen free: when this check expires, a TTL has gone by since
        # then, and with it whatever this claim has to wait for.
        sent_s = clock.now_s()
        if not self._pass(life):
            return None
        claim = Claim(
            cluster=self.identity.cluster,
            node=self.identity.node,
            instance=self.identity.instance,
            address=self.identity.address,
            epoch=max(known) + 1,
            ttl_s=self._ttl_s,
            wait_s=wait_s,
            positions=summary(positions),
            witness=life.service,
            beat=1,
        )
        written = self._lock(claim, life, entry.modify_index if entry else 0)
        if not written:
            return None
        deadline_s = sent_s + self._believed_s
        if clock.now_s() >= deadline_s:
            self._abandon()
            raise LeaseUnavailableError("Consul answers more slowly than the lease lasts")
        self._claim, self._written = claim, written
        self._safe_at_s = clock.now_s() + wait_s
        return Grant(epoch=claim.epoch, deadline_s=deadline_s, wait_s=wait_s)

    def _lock(self, claim: Claim, life: _Life, unchanged_since: int) -> int:
        """The index of this change; 0 if the key is not what it was."""
        value = encode_claim(claim)
        try:
            return self._agent.lock(self._key, value, life.session, unchanged_since=unchanged_since)
        except SessionGoneError:
            self._abandon()
            raise
        except LeaseError:
            # Perhaps it was done and only the answer is lost.
            with contextlib.suppress(LeaseError):
                self._agent.end_by(clock.now_s() + min(CALL_S, self._ttl_s / 3))
                _, found = self._agent.read(self._key)
                if found and found.session == life.session and found.value == value:
                    return found.modify_index
            # Or it will be done later: then by a session that is about to end.
            self._abandon()
            raise

    def renew(self) -> float:
        claim, life = self._claim, self._life
        if claim is None:
            raise LeaseLostError("no lease is held")
        if life is None or life.service != claim.witness:
            raise self._lost("its session has ended")
        sent_s = clock.now_s()
        # Half of what is left: a second try, on another connection, still comes in time.
        self._agent.end_by(sent_s + (life.good_until_s - sent_s) / 2)
        if sent_s >= life.good_until_s or not self._pass(life):
            raise self._lost("it was not renewed in time")
        deadline_s = sent_s + self._believed_s
        self._agent.end_by(deadline_s)
        if claim.wait_s and clock.now_s() >= self._safe_at_s:
            # From now on a successor need not wait for whom this node has waited for.
            claim = msgspec.structs.replace(claim, wait_s=0.0)
        claim = self._claim = msgspec.structs.replace(claim, beat=claim.beat + 1)
        try:
            self._written = self._beat(encode_claim(claim), life.session)
        except SessionGoneError as error:
            raise self._lost("its session has ended") from error
        if clock.now_s() >= deadline_s:
            raise self._lost("it was not renewed in time")
        return deadline_s

    def _beat(self, value: bytes, session: str) -> int:
        """Write the claim that is held; the index of this change."""
        index = self._written
        for _ in range(_TRIES):
            index = self._agent.lock(self._key, value, session, unchanged_since=index)
            if index:
                return index
            _, entry = self._agent.read(self._key)
            if entry is None:
                raise self._lost("the key was deleted")
            if entry.session != session:
                raise self._lost("its session has ended")
            # Still ours: an answer was lost, or somebody wrote who did not ask for the lock.
            index = entry.modify_index
        raise LeaseUnavailableError(f"{self._where} changes faster than it can be written")

    def release(self, successor: str = "") -> None:
        claim, life, self._claim = self._claim, self._life, None
        if claim is None or life is None or life.service != claim.witness:
            return
        now_s = clock.now_s()
        last = msgspec.structs.replace(
            claim, released=True, successor=successor, wait_s=max(0.0, self._safe_at_s - now_s)
        )
        self._agent.end_by(now_s + CALL_S)
        try:
            if not self._agent.unlock(self._key, encode_claim(last), life.session):
                raise LeaseLostError(f"{self._where} was not this node's any more")
        except LeaseError:
            self._abandon()
            raise

    def give_back(self, epoch: Epoch) -> None:
        self._agent.end_by(clock.now_s() + CALL_S)
        _, entry = self._agent.read(self._key)
        last = self._decode(entry)
        if entry is None or last is None or not entry.session:
            return
        if last.epoch != epoch or not self.identity.has_been(last):
            return
        # If the former process had still been waiting for others, that wait begins again.
        value = encode_claim(msgspec.structs.replace(last, released=True))
        if self._agent.unlock(self._key, value, entry.session):
            self._agent.destroy(entry.session)  # or the former process would count as alive
            self._agent.deregister(last.witness)

    def _lost(self, why: str) -> LeaseLostError:
        # What may still stand there for this node must not outlive its belief.
        self._claim = None
        self._abandon()
        return LeaseLostError(f"the lease is lost: {why}")

    # --- what stands in the key

    def watch(self, index: int, wait_s: float) -> View:
        if self._watcher_failed:
            index = 0  # a Consul that was emptied meanwhile would wait for an index long past
        until_s = clock.now_s() + wait_s
        try:
            while True:
                found, entry = self._read_in_time(index, until_s)
                last = self._decode(entry, found)
                if entry is not None and last is not None and self._end_silent(entry, last):
                    found, entry = self._watcher.read(self._key)
                    last = self._decode(entry, found)
                held = entry.session if entry else ""
                shown = (held, last and msgspec.structs.replace(last, beat=0))
                if not index or shown != self._shown or clock.now_s() >= until_s:
                    break
                index = found
            self._watcher.end_by(clock.now_s() + CALL_S)
            safe_in_s = self._safe_in_s(self._watcher, entry, last)
        except LeaseError as error:
            self._still.interrupted()
            self._shown = None
            self._watcher_failed = isinstance(error, LeaseUnavailableError)
            raise
        self._watcher_failed = False
        self._shown = shown
        self._free = None if entry is None or held else (found, entry)
        return View(index=found, holder=last if held else None, last=last, safe_in_s=safe_in_s)

    def _read_in_time(self, index: int, until_s: float) -> tuple[int, Entry | None]:
        """The key at its next change, or after a pace: that it stands still is to be seen, too."""
        asked_s = clock.now_s()
        wait_s = max(0.0, min(until_s - asked_s, self.pace_s)) if index else 0.0
        # Consul adds up to a sixteenth, so that not all who wait ask again at once.
        self._watcher.end_by(asked_s + wait_s * 17 / 16 + CALL_S)
        answer = self._watcher.read(self._key, index=index, wait_s=wait_s)
        if clock.now_s() > asked_s + wait_s + self.pace_s:
            self._still.interrupted()
        return answer

    def _end_silent(self, entry: Entry, last: Claim) -> bool:
        """Release a claim in the place of a holder that cannot believe in it any more."""
        if not entry.session or not last.beat or self.identity.has_been(last):
            return False
        still_s = self._still.lasts_s(entry.modify_index)
        if still_s < max(self._ttl_s, last.ttl_s):
            return False
        self._watcher.end_by(clock.now_s() + CALL_S)
        # The wait for others counts from when the claim was written, which was before it was seen.
        wait_s = max(0.0, last.wait_s - still_s)
        value = encode_claim(msgspec.structs.replace(last, released=True, wait_s=wait_s))
        if not self._watcher.unlock_unchanged(self._key, value, entry.session, entry.modify_index):
            return False
        with contextlib.suppress(LeaseError):
            self._watcher.destroy(entry.session)  # or it would count as alive
        return True

    def _decode(self, entry: Entry | None, index: int = 0) -> Claim | None:
        if entry is None:
            return None
        return decode_claim(entry.value, self._where, self.identity.cluster, index)

    def _wait_s(self, entry: Entry | None, last: Claim | None) -> float:
        if last is not None and last.instance == self.identity.instance and not last.released:
            return last.wait_s  # this object's own, and it believes nothing any more
        return self._safe_in_s(self._agent, entry, last)

    def _safe_in_s(self, agent: ConsulAgent, entry: Entry | None, last: Claim | None) -> float:
        if entry is None or last is None:
            return self._ttl_s
        ttl_s = max(self._ttl_s, last.ttl_s)
        if entry.session:
            return ttl_s
        if last.released:
            return last.wait_s
        return 0.0 if last.witness and agent.expired(last.witness) else ttl_s

    # --- members

    def announce(self, member: Member) -> bool:
        value = encode_member(member)
        key = self._member_key(self.identity.node)
        self._agent.end_by(self._soon_s())
        life = self._living()
        if value == self._announced:
            _, entry = self._agent.read(key)
            if entry and entry.session == life.session and entry.value == value:
                return True
        try:
            done = self._agent.put_locked(key, value, life.session)
        except SessionGoneError:
            self._abandon()
            life = self._living()
            done = self._agent.put_locked(key, value, life.session)
        if done:
            self._announced, self._rival = value, None
            return True
        self._meet_rival(key)
        return False

    def _meet_rival(self, key: str) -> None:
        """A former life of this node ends within a TTL; another node of its name does not."""
        _, entry = self._agent.read(key)
        now_s = clock.now_s()
        session = entry.session if entry else ""
        if not session or self._rival is None or self._rival[0] != session:
            self._rival = (session, now_s) if session else None
        elif now_s - self._rival[1] > 2 * self._ttl_s + CALL_S:
            other = decode_member(entry.value, alive=True) if entry else None
            where = other.address if other else "an unknown address"
            raise DuplicateNodeError(
                f"another node {self.identity.node!r} at {where} takes part in {self._where}: "
                "give one of the two another [node] name"
            )

    def members(self) -> list[Member]:
        self._agent.end_by(self._soon_s())
        return self._members()

    def _members(self) -> list[Member]:
        entries = self._agent.read_below(self._member_key(""))
        found = [decode_member(entry.value, alive=bool(entry.session)) for entry in entries]
        return [member for member in found if member is not None]

    def _soon_s(self) -> float:
        """The end of a call that a holder can wait for without missing its renewal."""
        return clock.now_s() + (min(CALL_S, self.pace_s) if self._claim else CALL_S)

    def _member_key(self, node: str) -> str:
        return f"{self._key}/nodes/{node}"

    # --- lives

    def _living(self) -> _Life:
        """The life of this node, passed just now, or a new one."""
        while self._abandoned:
            self._bury(self._abandoned[0])
            self._abandoned.pop(0)
        if self._life is not None and self._pass(self._life):
            return self._life
        if self._abandoned:
            self._bury(self._abandoned.pop())
        service = f"litemq-{self.identity.node}-{secrets.token_hex(6)}"
        life = self._life = _Life(service, clock.now_s() + self._believed_s)
        end_s = clock.now_s() + CALL_S
        try:
            self._agent.register(service, self._ttl_s, self.identity.address)
            pause_s = 0.001
            while not life.session:
                life.session = self._agent.new_session(service) or ""
                if not life.session:
                    if clock.now_s() > end_s:
                        raise LeaseUnavailableError("Consul's servers do not learn of the check")
                    time.sleep(pause_s)
                    pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                    self._agent.keep(service)
        except LeaseError:
            self._abandon()
            raise
        return life

    def _pass(self, life: _Life) -> bool:
        """Whether the check has passed without a gap; if not, the life is abandoned."""
        sent_s = clock.now_s()
        known = self._agent.keep(life.service)
        if not known or clock.now_s() >= life.good_until_s:
            self._abandon()
            return False
        life.good_until_s = sent_s + self._believed_s
        return True

    def _abandon(self) -> None:
        life, self._life = self._life, None
        self._announced = b""
        if life is not None:
            self._abandoned.append(life)

    def _bury(self, life: _Life) -> None:
        if life.session:
            self._agent.destroy(life.session)
        self._agent.deregister(life.service)

    def close(self) -> None:
        self._watcher.abort()
        with contextlib.suppress(LeaseError):
            self.release()
        self._abandon()
        self._agent.end_by(clock.now_s() + CALL_S)
        with contextlib.suppress(LeaseError):
            while self._abandoned:
                self._bury(self._abandoned.pop())
        self._agent.close()
