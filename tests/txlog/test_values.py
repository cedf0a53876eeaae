"""Positions, epoch tables, the saved state and retention: values and pure functions."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.errors import FormatError, GapError
from litemq.txlog import position as positions
from litemq.txlog import state as states
from litemq.txlog.epochs import MAX_ENTRIES, EpochTable
from litemq.txlog.position import Position
from litemq.txlog.retention import expired
from litemq.txlog.segment_files import SegmentInfo
from litemq.txlog.state import State

U64 = st.integers(0, (1 << 64) - 1)


@given(U64, U64, U64)
def test_a_position_when_written_and_parsed_then_is_the_same(a: int, b: int, c: int) -> None:
    """Text and value are one to one."""
    assert positions.parse(Position(a, b, c).text) == Position(a, b, c)


@pytest.mark.parametrize("text", ["", "1/2/3", "0" * 16, f"{0:016x}/{0:016x}/{0:016x}\n", "x" * 50])
def test_a_text_when_it_is_no_position_then_is_refused(text: str) -> None:
    """No white space, no short fields."""
    with pytest.raises(FormatError):
        positions.parse(text)


def test_an_epoch_when_asked_by_txid_then_is_the_one_that_wrote_it() -> None:
    """An entry holds up to the next."""
    table = EpochTable([(3, 5), (9, 8)])
    assert [table.at(txid) for txid in (0, 4, 5, 7, 8, 99)] == [0, 0, 3, 3, 9, 9]


def test_an_epoch_when_older_then_is_a_gap() -> None:
    """The table only grows; an epoch that wrote nothing is replaced."""
    table = EpochTable()
    assert table.append(4, 1)
    assert not table.append(4, 2)
    assert table.append(6, 3)
    assert table.append(7, 3)
    assert table.to_list() == [(4, 1), (7, 3)]
    with pytest.raises(GapError):
        table.append(6, 9)
    with pytest.raises(GapError):
        table.append(8, 2)
    with pytest.raises(FormatError):
        EpochTable([(4, 1), (4, 3)])
    with pytest.raises(FormatError):
        EpochTable([(4, 3), (5, 3)])


@given(
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12),
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=12),
)
def test_two_histories_when_compared_then_part_where_they_parted(
    shared: list[tuple[int, bool]],
    mine: list[tuple[int, bool]],
    theirs: list[tuple[int, bool]],
) -> None:
    """last_common is the end of the shared part: no epoch is used by both after it, and one side
    has won it.
    """
    next_epoch = 1
    log: list[int] = []  # epoch of each TXID
    for count, _ in shared:
        log += [next_epoch] * count
        next_epoch += 1
    left, right = list(log), list(log)
    for history, run in ((left, mine), (right, theirs)):
        for count, _ in run:
            history += [next_epoch] * count
            next_epoch += 1
    a, b = (EpochTable() for _ in range(2))
    for table, history in ((a, left), (b, right)):
        for txid, epoch in enumerate(history, 1):
            table.append(epoch, txid)
    common = a.last_common(b, head=len(left), other_head=len(right))
    assert common == b.last_common(a, head=len(right), other_head=len(left)) == len(log)


def test_a_table_when_it_grows_for_ever_then_forgets_the_oldest_epochs() -> None:
    """It goes with every answer to a replica, so it has a limit."""
    table = EpochTable()
    for number in range(1, MAX_ENTRIES + 11):
        table.append(number, number)
    assert len(table.to_list()) == MAX_ENTRIES
    assert table.at(10) == 0
    assert table.at(11) == 11


def test_a_table_when_the_head_is_behind_it_then_counts_only_up_to_the_head() -> None:
    """An epoch that has begun but written nothing is in no common history."""
    a, b = EpochTable([(1, 1), (2, 6)]), EpochTable([(1, 1), (2, 6)])
    assert a.last_common(b, head=5, other_head=9) == 5
    assert a.last_common(EpochTable(), head=5, other_head=0) == 0
    assert a.last_common(EpochTable([(3, 1)]), head=5, other_head=9) == 0


def test_the_state_when_saved_and_loaded_then_is_the_same(tmp_path: Path) -> None:
    """Every field survives, and a leftover temporary file does not matter."""
    state = State(
        4096, 12, Position(3, 9, 1 << 63), EpochTable([(3, 2)]), "boot", True, True, True,
        Position(3, 8, 5), "00ff" * 6,
    )  # fmt: skip
    (tmp_path / "state.json.tmp").write_bytes(b"half")
    state.save(tmp_path)
    loaded = states.load(tmp_path)
    assert loaded is not None
    assert loaded.epochs.to_list() == state.epochs.to_list()
    for field in fields(State):
        if field.name != "epochs":
            assert getattr(loaded, field.name) == getattr(state, field.name), field.name
    assert states.load(tmp_path / "none") is None


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b"[]", b'{"version": 2}', b"\xff", b"null"],
)
def test_the_state_when_damaged_then_the_error_names_the_file(
    tmp_path: Path, damage: bytes
) -> None:
    """It is never taken for an empty one."""
    (tmp_path / "state.json").write_bytes(damage)
    with pytest.raises(FormatError, match=r"state\.json"):
        states.load(tmp_path)


def segments(*sizes_and_times: tuple[int, float]) -> list[SegmentInfo]:
    return [
        SegmentInfo(Path(f"{n}.seg"), n * 10 + 1, n * 10 + 10, size, mtime_s)
        for n, (size, mtime_s) in enumerate(sizes_and_times)
    ]


def test_segments_when_too_old_then_the_prefix_goes() -> None:
    """Only a prefix goes, the newest never, however old."""
    held = segments((10, 100), (10, 200), (10, 50))
    assert expired(held, 1000, 850, 1 << 30) == held[:1]
    assert expired(held, 10_000, 850, 1 << 30) == held[:2]
    assert expired(held, 1000, 9999, 1 << 30) == []


def test_segments_when_too_many_bytes_then_the_oldest_go_until_it_fits() -> None:
    """The limit counts what stays; a newest segment above it stays alone."""
    held = segments((10, 1), (10, 1), (10, 1))
    assert expired(held, 1, 100, 20) == held[:1]
    assert expired(held, 1, 100, 5) == held[:2]
    assert expired([], 1, 100, 5) == []
