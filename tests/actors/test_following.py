"""What a replica does about one database: examples, and random walks against a small primary."""

from __future__ import annotations

import random

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.actors.following import SILENT_S, Following, Phase, Step
from litemq.txlog.position import ZERO, Position


def at(txid: int, history: int = 0, epoch: int = 1) -> Position:
    """A position; the checksum follows from the history and the TXID."""
    return Position(epoch, txid, (1 << 63) | (history << 32) | txid) if txid else ZERO


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (at(0), at(0), Step.NOTHING),
        (at(5), at(5), Step.NOTHING),
        (at(0), at(5), Step.FETCH),
        (at(4), at(5), Step.FETCH),
        (at(6), at(5), Step.REPAIR),
        (at(5, history=1), at(5), Step.REPAIR),
        (at(5, epoch=1), at(5, epoch=2), Step.NOTHING),
    ],
)
def test_head_when_seen_while_live_then_it_is_compared(
    mine: Position, theirs: Position, expected: Step
) -> None:
    """Behind: fetch. Ahead, or equal in TXID but not in contents: repair."""
    assert Following().head_seen(mine, theirs, 0.0) is expected


def test_head_when_a_transfer_overtook_it_then_it_is_no_reason_to_repair() -> None:
    """Old heartbeats wait in the stream's queue; only a head that stays behind is a real one."""
    following = Following()
    for now_s, txid in enumerate(range(3, 9)):
        head = following.head_seen(at(9), at(txid), now_s * SILENT_S, same_term=True)
        assert head is Step.NOTHING
    assert following.head_seen(at(9), at(9), 6 * SILENT_S, same_term=True) is Step.NOTHING
    assert following.head_seen(at(9), at(7), 7 * SILENT_S, same_term=True) is Step.NOTHING
    assert following.head_seen(at(9), at(7), 8.1 * SILENT_S, same_term=True) is Step.REPAIR


def test_head_when_behind_within_one_term_then_it_is_believed_only_if_it_stays() -> None:
    """A transfer may overtake a heartbeat; each head that is new starts the time anew."""
    following = Following()

    def seen(txid: int, now_s: float) -> Step:
        return following.head_seen(at(9), at(txid), now_s, same_term=True)

    assert seen(7, 100.0) is Step.NOTHING
    assert seen(8, 102.0) is Step.NOTHING
    assert seen(8, 102.0 + SILENT_S) is Step.NOTHING
    assert seen(8, 102.1 + SILENT_S) is Step.REPAIR
    assert following.head_seen(at(9), at(8), 200.0) is Step.REPAIR


def test_head_when_its_contents_differ_within_one_term_then_it_is_repaired_at_once() -> None:
    """Equal TXIDs have nothing to do with who was faster."""
    assert Following().head_seen(at(9), at(9, history=1), 0.0, same_term=True) is Step.REPAIR


@pytest.mark.parametrize(
    ("first", "last", "inline", "expected"),
    [
        (6, 6, True, Step.TAKE),
        (6, 9, True, Step.TAKE),
        (4, 6, True, Step.TAKE),
        (3, 5, True, Step.NOTHING),
        (7, 7, True, Step.FETCH),
        (6, 6, False, Step.FETCH),
        (5, 5, False, Step.NOTHING),
    ],
)
def test_records_when_seen_while_live_then_only_the_next_are_taken(
    first: int, last: int, inline: bool, expected: Step
) -> None:
    """Mine is 5: what overlaps is taken, what leaves a gap or was only announced is fetched."""
    assert Following().records_seen(at(5), first, last, inline=inline) is expected


@pytest.mark.parametrize(
    ("phase", "again"), [(Phase.FETCHING, Step.FETCH), (Phase.REPAIRING, Step.REPAIR)]
)
def test_transfer_when_it_goes_silent_then_it_is_asked_for_again(phase: Phase, again: Step) -> None:
    """Not before; and a piece that arrives starts the time anew."""
    following = Following()
    following.begin(phase, 9, 100.0)
    assert following.head_seen(at(1), at(5), 100.0 + SILENT_S) is Step.NOTHING
    assert following.head_seen(at(1), at(5), 100.1 + SILENT_S) is again
    following.heard_s = 102.0
    assert following.head_seen(at(1), at(5), 100.1 + SILENT_S) is Step.NOTHING
    # even if the head has been reached meanwhile: only the transfer's own end ends it
    assert following.head_seen(at(5), at(5), 102.1 + SILENT_S) is again


def test_transfer_when_under_way_then_live_records_wait() -> None:
    """The transfer brings them, or the stash does."""
    following = Following()
    following.begin(Phase.FETCHING, 9, 0.0)
    assert following.records_seen(at(5), 6, 6, inline=True) is Step.NOTHING


def test_transfer_when_another_has_replaced_it_then_its_pieces_are_not_wanted() -> None:
    """Nor those of any transfer when none is under way."""
    following = Following()
    assert not following.is_current(0)
    following.begin(Phase.FETCHING, 9, 0.0)
    following.begin(Phase.REPAIRING, 10, 0.0)
    assert [following.is_current(number) for number in (0, 9, 10)] == [False, False, True]
    following.done()
    assert not following.is_current(10)
    assert following.phase is Phase.LIVE


class World:
    """A primary that commits, a network that loses whatever it likes, and one replica.

    Positions stand for databases: equal positions are equal pages.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_s = 0.0
        self.following = Following()
        self.mine = ZERO
        self.theirs = at(self.chance.randrange(3))
        self.history = 0
        self.asked: tuple[int, Phase] | None = None
        self.transfer = 0

    def act(self, *, losing: bool) -> None:
        lost = losing and self.chance.random() < 0.4
        match self.chance.choice(["commit", "head", "head", "answer", "answer", "part", "wait"]):
            case "commit":
                if losing:  # else the primary is quiet, so that the replica can arrive
                    self.commit(lost=lost)
            case "head" if not lost:
                self.follow(self.following.head_seen(self.mine, self.theirs, self.now_s))
            case "answer":
                self.answer(lost=lost)
            case "part" if losing and self.chance.random() < 0.1:
                self.part()
            case "wait":
                self.now_s += self.chance.choice([0.1, SILENT_S, SILENT_S + 1])

    def commit(self, *, lost: bool) -> None:
        first = self.theirs.txid + 1
        last = first + self.chance.randrange(3)
        self.theirs = at(last, self.history)
        if lost:
            return
        inline = self.chance.random() < 0.7
        step = self.following.records_seen(self.mine, first, last, inline=inline)
        if step is Step.TAKE:
            assert first <= self.mine.txid + 1 <= last, "a record that is not the next"
            assert self.following.phase is Phase.LIVE
            # what does not fit is found by its pre-apply checksum
            fits = self.mine == at(first - 1, self.history)
            self.follow(Step.NOTHING if fits else Step.REPAIR)
            self.mine = self.theirs if fits else self.mine
            return
        self.follow(step)

    def part(self) -> None:
        """The primary was set back: another history from here on, or the replica is ahead."""
        self.history += 1
        self.theirs = at(max(0, self.theirs.txid - self.chance.randrange(3)), self.history)

    def follow(self, step: Step) -> None:
        assert step is not Step.TAKE
        if step is Step.NOTHING:
            return
        if self.following.phase is not Phase.LIVE:
            assert self.now_s - self.following.heard_s > SILENT_S or step is Step.REPAIR
        phase = Phase.FETCHING if step is Step.FETCH else Phase.REPAIRING
        self.transfer += 1
        self.following.begin(phase, self.transfer, self.now_s)
        self.asked = (self.transfer, phase)

    def answer(self, *, lost: bool) -> None:
        """The whole transfer arrives, or none of it. An old one is not taken for the new."""
        if self.asked is None:
            return
        number, phase = self.asked
        self.asked = None
        if self.transfer > 1:
            assert not self.following.is_current(number - 1)
        if lost or not self.following.is_current(number):
            return
        if (
            phase is Phase.FETCHING
            and self.mine.txid
            and self.mine != at(self.mine.txid, self.history)
        ):
            self.follow(Step.REPAIR)  # RepairNeeded: the histories differ
            return
        if phase is Phase.FETCHING and self.mine.txid > self.theirs.txid:
            self.follow(Step.REPAIR)
            return
        self.mine = self.theirs
        self.following.done()


@given(st.integers(0, 1 << 32))
def test_replica_when_anything_was_lost_then_it_ends_with_what_the_primary_has(seed: int) -> None:
    """Losses, silences, gaps and a primary set back; then a quiet while, and both are equal."""
    world = World(seed)
    for _ in range(150):
        world.act(losing=True)
    for _ in range(400):
        world.act(losing=False)
    assert world.mine == world.theirs, f"seed {seed}"
    assert world.following.phase is Phase.LIVE


@given(st.integers(0, 1 << 32))
def test_replica_when_a_transfer_is_under_way_then_there_is_no_second(seed: int) -> None:
    """Heads and records ask for nothing while pieces still come."""
    chance = random.Random(seed)
    following = Following()
    now_s = heard_s = 0.0
    following.begin(chance.choice([Phase.FETCHING, Phase.REPAIRING]), 1, now_s)
    for _ in range(100):
        now_s += chance.random()
        if now_s - heard_s > SILENT_S or chance.random() < 0.3:
            heard_s = following.heard_s = now_s
        mine, first = at(chance.randrange(9)), chance.randrange(1, 9)
        theirs = at(chance.randrange(9), history=chance.randrange(2))
        assert following.head_seen(mine, theirs, now_s) is Step.NOTHING
        last = first + chance.randrange(3)
        assert following.records_seen(mine, first, last, inline=True) is Step.NOTHING


def test_head_of_a_relay_when_behind_then_it_is_believed_only_if_it_stays() -> None:
    """A relay may be slower than the replica was where it came from."""
    following = Following()

    def seen(txid: int, now_s: float) -> Step:
        return following.head_seen(at(9), at(txid), now_s, relayed=True)

    assert seen(7, 100.0) is Step.NOTHING
    assert seen(8, 100.0 + SILENT_S) is Step.NOTHING
    assert seen(8, 100.1 + 2 * SILENT_S) is Step.REPAIR
    assert following.head_seen(at(9, history=1), at(9), 0.0, relayed=True) is Step.REPAIR
