"""The lease service as events: calls in threads of their own, and what they answered.

Owns the lease object. One thread waits for changes of the lease, the other does everything else, in
order. Always true: a renewal is asked for once at a time, and a release is repeated until answered.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from functools import partial

from litemq import log
from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.election import events as e
from litemq.election.lease import (
    Grant,
    Lease,
    LeaseError,
    LeaseHeldError,
    LeaseLostError,
    Member,
    OtherClusterError,
    Positions,
    View,
)
from litemq.election.members import Holder, Standing
from litemq.election.members import Member as Rival
from litemq.errors import LiteMQError
from litemq.transport.messages import MemberStatus

#: a look at the lease waits this long for a change
WATCH_S = 10.0
#: after a failed one
PAUSE_S = 0.2


class LeaseService:
    """Questions out, events in."""

    def __init__(
        self,
        lease: Lease,
        layout: Layout,
        watching: HelperThread,
        calling: HelperThread,
        *,
        happened: Callable[[e.Event], None],
    ) -> None:
        self._lease = lease
        self._layout = layout
        self._watching = watching
        self._calling = calling
        self._happened = happened
        self._log = log.get()
        self._renewing = False
        self._announced: Member | None = None
        self._announcing = False
        self._failed = ""
        self._view: View | None = None
        #: the epoch of the lease that is held, 0 if none is
        self._held = 0
        #: a name that may never come to be is tried for the cluster
        self._founding = False
        self._since_ms = time.time_ns() // 1_000_000
        #: how far this node is; the actor keeps it up to date
        self.positions: Positions = {}

    @property
    def threads(self) -> tuple[HelperThread, HelperThread]:
        return self._watching, self._calling

    @property
    def pace_s(self) -> float:
        return self._lease.pace_s

    def close(self) -> None:
        """Give back what is held, unless it was not said that commits are refused: then the lease
        has to run out.
        """
        if not self._held:
            self._lease.close()

    def bequeath(self) -> None:
        """Give back what is held: nothing of this node can accept commits any more, nor will.

        Returns when that is done or was refused. Nothing else of this object works afterwards.
        """
        done = threading.Event()
        self._calling.run(self._lease.close)  # after the call that is under way
        self._calling.run(done.set)
        done.wait()

    # --- what the lease looks like

    def watch(self, index: int = 0) -> None:
        """Look at the lease from now on, as soon as it changes."""
        self._watching.call(
            lambda: self._lease.watch(index, WATCH_S), lambda seen: self._seen(seen)
        )

    def _seen(self, seen: View | LiteMQError) -> None:
        if isinstance(seen, LiteMQError):
            other = isinstance(seen, OtherClusterError)
            joined = self._layout.read_cluster()
            index = seen.index if isinstance(seen, OtherClusterError) and joined else 0
            if joined or not other:
                self._view = None
                self._complain(seen)
                self._happened(e.LeaseUnavailable(str(seen)))
            self._watching.call(lambda: time.sleep(PAUSE_S), lambda _: self.watch(index))
            return
        self._failed = ""
        self._view = seen
        last = seen.holder or seen.last
        if last is not None and not self._layout.read_cluster():
            self._join(last.cluster)
        self.look()
        self.watch(seen.index)

    def look(self) -> None:
        """Tell the newest view."""
        view = self._view
        if view is None:
            return
        holder, last = view.holder, view.last
        mine = holder is not None and self._lease.identity.has_been(holder)
        self._happened(
            e.LeaseView(
                holder=None
                if holder is None
                else Holder(holder.node, holder.address, holder.epoch),
                mine=mine,
                last_epoch=0 if last is None else last.epoch,
                successor=None if last is None or holder is not None else last.successor or None,
                safe_in_s=view.safe_in_s,
            )
        )

    def _join(self, cluster: str) -> None:
        self._layout.write_cluster(cluster)
        self._lease.join(cluster)

    def _complain(self, error: LiteMQError) -> None:
        if str(error) != self._failed:
            self._failed = str(error)
            self._log.warning("the lease service refuses", reason=str(error))

    # --- holding it

    def acquire(self, attempt: int, above: int) -> None:
        """Ask for the lease; a cluster that has no name yet gets one."""
        founding = "" if self._layout.read_cluster() else secrets.token_hex(8)
        self._founding = bool(founding)

        def ask() -> Grant:
            if founding:
                self._lease.join(founding)
            try:
                return self._lease.acquire(above, self.positions)
            except LiteMQError:
                if founding:  # another node may have been faster
                    self._lease.join(self._layout.read_cluster())
                raise

        self._calling.call(ask, partial(self._acquired, attempt, founding))

    def _acquired(self, attempt: int, founding: str, got: Grant | LiteMQError) -> None:
        self._founding = False
        match got:
            case Grant(epoch=epoch, deadline_s=deadline_s, wait_s=wait_s):
                if founding:
                    self._layout.write_cluster(founding)
                self._held = epoch
                self._happened(e.Granted(attempt, epoch, deadline_s, wait_s))
            case LeaseHeldError():
                self._happened(e.Denied(attempt))
            case OtherClusterError() if founding:
                self._happened(e.Denied(attempt))  # another node has founded the cluster
            case OtherClusterError():
                self._complain(got)
                self._happened(e.Denied(attempt, 1.0))
            case error:
                self._happened(e.LeaseUnavailable(str(error), attempt))

    def renew(self, epoch: int) -> None:
        """Prolong it."""
        if not self._renewing:
            self._renewing = True
            self._calling.call(self._lease.renew, partial(self._renewed, epoch))

    def _renewed(self, epoch: int, got: float | LiteMQError) -> None:
        self._renewing = False
        match got:
            case LeaseLostError():
                self._held = 0
                self._happened(e.LeaseLost(epoch, str(got)))
            case LiteMQError():
                self._happened(e.RenewFailed(epoch, str(got)))
            case deadline_s:
                self._happened(e.Renewed(epoch, deadline_s))

    def release(self, epoch: int, successor: str) -> None:
        """Give it back, if it is of this epoch."""
        if self._held not in (0, epoch):
            return
        held, self._held = self._held, 0
        self._calling.call(
            lambda: self._lease.release(successor) if held else self._lease.give_back(epoch),
            lambda _: self._happened(e.Released(epoch)),
        )

    # --- the others

    def announce(
        self, *, lost: int, fit: bool, unfit: str, role: str, epoch: int, why: str, candidate: bool
    ) -> None:
        """Say how this node stands; `unfit` is why it is not fit, if it is not."""
        if self._announced is None or self._announced.role != role:
            self._since_ms = time.time_ns() // 1_000_000
        identity = self._lease.identity
        member = Member(
            cluster="" if self._founding else identity.cluster,
            node=identity.node,
            instance=identity.instance,
            address=identity.address,
            role=role,
            epoch=epoch,
            since_ms=self._since_ms,
            why=why[:300],
            candidate=candidate,
            fit=fit,
            unfit=unfit[:300],
            lost=lost,
            positions=dict(self.positions),
        )
        if self._announcing and self._announced is not None and self._announced.lost == lost:
            return  # one that says the same is under way
        self._announced, self._announcing = member, True
        self._calling.call(lambda: self._lease.announce(member), self._has_announced)

    def _has_announced(self, got: bool | LiteMQError) -> None:
        self._announcing = False
        if isinstance(got, LeaseError):
            self._complain(got)

    def members(self, attempt: int, connected: set[str]) -> None:
        """Who is alive? `connected` are the nodes that follow this one."""

        def answer(got: list[Member] | LiteMQError) -> None:
            if isinstance(got, LiteMQError):
                self._happened(e.LeaseUnavailable(str(got)))
                return
            alive = tuple(
                Rival(
                    each.node,
                    Standing(
                        max((epoch for epoch, _ in each.positions.values()), default=0),
                        sum(txid for _, txid in each.positions.values()),
                    ),
                    candidate=each.candidate,
                    fit=each.fit,
                    unfit=each.unfit,
                    connected=each.node in connected,
                    epoch_seen=each.epoch,
                    lost=each.lost,
                )
                for each in got
                if each.alive
            )
            self._happened(e.MembersSeen(attempt, alive))

        self._calling.call(self._lease.members, answer)

    def list_members(self, answer: Callable[[tuple[list[MemberStatus], str]], None]) -> None:
        """All that have ever announced themselves, for people to read."""

        def told(got: list[Member] | LiteMQError) -> None:
            if isinstance(got, LiteMQError):
                answer(([], str(got)))
                return
            answer(
                (
                    [
                        MemberStatus(
                            each.node, each.address, each.role, each.epoch, each.since_ms,
                            each.why, each.candidate, each.alive,
                            sum(txid for _, txid in each.positions.values()),
                        )
                        for each in got
                    ],
                    "",
                )
            )  # fmt: skip

        self._calling.call(self._lease.members, told)
