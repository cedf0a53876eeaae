"""What stands around a message: preamble, version, payload frames, topics."""

from __future__ import annotations

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litemq.errors import ProtocolError
from litemq.transport import messages as m
from litemq.transport.frames import (
    HEARTBEAT_TOPIC,
    MAX_FRAMES,
    PREAMBLE,
    VERSION,
    pack,
    topic,
    unpack,
)

MESSAGE = m.WalGate(7, "notes.db", 4152)
PAYLOADS = st.lists(st.binary(max_size=50), max_size=MAX_FRAMES - 1)
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@given(PAYLOADS)
def test_datagram_when_packed_and_unpacked_then_it_is_the_same(payload: list[bytes]) -> None:
    """The message, and every payload frame as it was."""
    message, found = unpack(pack(MESSAGE, *payload))
    assert message == MESSAGE
    assert list(found) == payload


@given(st.data(), PAYLOADS)
def test_datagram_when_its_head_is_cut_then_it_is_refused(
    data: st.DataObject, payload: list[bytes]
) -> None:
    """At every length, also within the preamble."""
    head, *rest = pack(MESSAGE, *payload)
    cut = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(ProtocolError):
        unpack([head[:cut], *rest])


@given(st.data())
def test_datagram_when_a_byte_is_garbled_then_it_is_another_or_refused(data: st.DataObject) -> None:
    """Only ProtocolError is ever raised, and in the preamble always."""
    head = bytearray(pack(MESSAGE)[0])
    at = data.draw(st.integers(0, len(head) - 1))
    head[at] ^= data.draw(st.integers(1, 255))
    try:
        unpack([bytes(head)])
    except ProtocolError:
        return
    assert at >= len(PREAMBLE)


@given(st.lists(st.binary(max_size=60), max_size=MAX_FRAMES + 2))
def test_frames_when_anything_then_only_protocol_errors_come(frames: list[bytes]) -> None:
    """What a stranger sends, in as many frames as he likes."""
    with pytest.raises(ProtocolError):
        unpack(frames)


@pytest.mark.parametrize("count", [0, MAX_FRAMES + 1, 1000])
def test_datagram_when_it_has_too_many_frames_or_none_then_it_is_refused(count: int) -> None:
    """The number of frames is looked at before any of them."""
    frames = (pack(MESSAGE) + [b""] * count)[:count]
    with pytest.raises(ProtocolError, match=f"{count} frames"):
        unpack(frames)


@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_version_when_it_is_another_then_both_are_named(version: int) -> None:
    """Who reads the log learns which node to upgrade."""
    head = b"LMQ" + bytes([version]) + pack(MESSAGE)[0][len(PREAMBLE) :]
    with pytest.raises(ProtocolError, match=f"version {version}, this node speaks {VERSION}"):
        unpack([head])


def test_version_when_it_is_missing_then_it_is_said() -> None:
    """Three bytes are the beginning of a preamble."""
    with pytest.raises(ProtocolError, match="version no"):
        unpack([b"LMQ"])


def test_version_when_it_is_another_then_the_message_is_not_decoded() -> None:
    """What follows may be of a kind this node can't read: the version is the reason told."""
    with pytest.raises(ProtocolError, match="version 2"):
        unpack([b"LMQ\x02" + b"\xc1 no message pack"])


@given(NAMES, NAMES)
def test_topic_when_two_databases_differ_then_neither_is_the_beginning_of_the_other(
    one: str, other: str
) -> None:
    """ZeroMQ matches topics by their beginning: `a.db` must not bring `a.db2`."""
    assert topic(one).startswith(topic(other)) == (one == other)
    assert not topic(one).startswith(HEARTBEAT_TOPIC)
