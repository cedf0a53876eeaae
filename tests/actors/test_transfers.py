"""What a publisher answers to a replica whose position it does not have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from litemq.actors.transfers import RecordTransfer
from litemq.transport import messages as m
from litemq.txlog import ltx
from litemq.txlog.checksums import EMPTY, page_checksum
from litemq.txlog.ltx import Header
from litemq.txlog.position import Position
from litemq.txlog.segment_reader import TooOldError

SIZE = 512


class Publisher:
    """A log of three transactions, and what was sent to the replica that asks for it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.relays = False
        self._records: list[bytes] = []
        self.checksums = [EMPTY]
        for txid in (1, 2, 3):
            page = bytes([txid]) * SIZE
            total = page_checksum(1, page)
            before = 0 if txid == 1 else self.checksums[-1]
            header = Header(SIZE, 1, txid, txid, 1, before)
            self._records.append(ltx.encode(header, [(1, page)], total))
            self.checksums.append(total)
        position = m.WirePosition.of(Position(1, 3, self.checksums[3]))
        self.heads = {"a.db": m.Head("a.db", position, SIZE, 1, 0)}
        self.first = 1

    def send(self, message: m.Message, *_payload: bytes) -> bool:
        self.sent.append(message)
        return True

    def epochs(self, _database: str) -> list[tuple[int, int]]:
        return [(1, 1)]

    def records(self, _database: str, first: int, _bytes: int, _most: int) -> list[bytes]:
        if first < self.first:
            raise TooOldError("gone")
        return self._records[first - 1 :]

    def asked(self, txid: int, checksum: int) -> Any:
        source: Any = self
        replica: Any = SimpleNamespace(send=self.send)
        RecordTransfer(source, replica, 7, "a.db", Position(1, txid, checksum), 1 << 20).advance()
        return self.sent[-1]


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.mark.parametrize("txid", [1, 2, 3])
def test_replica_when_its_checksum_is_another_then_the_histories_have_parted(
    publisher: Publisher, txid: int
) -> None:
    """At the head and before it: a field says so, which no wording can change."""
    answer = publisher.asked(txid, EMPTY ^ 5)
    assert isinstance(answer, m.RepairNeeded)
    assert answer.parted


def test_replica_when_the_log_does_not_reach_back_then_nothing_has_parted(
    publisher: Publisher,
) -> None:
    """What it has may well be a state that the primary had."""
    publisher.first = 3
    answer = publisher.asked(1, publisher.checksums[1])
    assert isinstance(answer, m.RepairNeeded)
    assert not answer.parted


def test_replica_when_it_is_ahead_then_it_is_not_known_whether_they_have_parted(
    publisher: Publisher,
) -> None:
    """The same log, after a power loss of the primary."""
    answer = publisher.asked(9, 1)
    assert isinstance(answer, m.RepairNeeded)
    assert not answer.parted


def test_replica_when_it_follows_then_it_gets_records(publisher: Publisher) -> None:
    """From the one behind its position on."""
    answer = publisher.asked(1, publisher.checksums[1])
    assert isinstance(answer, m.RecordsChunk)
    assert answer.first_txid == 2
    assert len(answer.lengths) == 2
