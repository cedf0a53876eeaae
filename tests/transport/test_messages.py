"""Messages as values and as bytes: what is sent arrives, and nothing else is ever taken for one."""

from __future__ import annotations

import inspect
import re
from typing import Any, cast

import hypothesis_profile  # noqa: F401 - sets Hypothesis up
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as shapes

from litemq.errors import ProtocolError
from litemq.transport import messages as m
from litemq.txlog.position import Position

U64_MAX = (1 << 63) - 1
#: of each of some fifty messages
EXAMPLES = 12


def values(shape: shapes.Type) -> st.SearchStrategy[Any]:
    """Everything that fits a field, its limits included. A kind of field not met before fails."""
    match shape:
        case shapes.IntType():
            return st.integers(shape.ge, shape.le)
        case shapes.BoolType():
            return st.booleans()
        case shapes.NoneType():
            return st.none()
        case shapes.StrType() if shape.pattern:
            # `$` would let a newline pass
            return st.from_regex(shape.pattern.replace("$", r"\Z"))
        case shapes.StrType():
            return st.text(min_size=shape.min_length or 0, max_size=min(shape.max_length or 40, 40))
        case shapes.ListType():
            return st.lists(values(shape.item_type), max_size=3)
        case shapes.TupleType():
            return st.tuples(*map(values, shape.item_types))
        case shapes.UnionType():
            return st.one_of(*map(values, shape.types))
        case shapes.StructType():
            fields = {each.name: values(each.type) for each in shape.fields}
            return st.builds(shape.cls, **fields)
    raise AssertionError(f"how to make a {shape}?")


def any_of(kind: type[m.Message]) -> st.SearchStrategy[m.Message]:
    return values(shapes.type_info(kind))


ANY_MESSAGE = st.one_of(*map(any_of, m.ALL))


def name_of(kind: type[m.Message]) -> str:
    return kind.__name__


def decoded(data: bytes) -> m.Message | None:
    """None where it is refused as it should be; whatever else is raised fails the test."""
    try:
        return m.decode(data)
    except ProtocolError:
        return None


@pytest.mark.parametrize("kind", m.ALL, ids=name_of)
@settings(max_examples=EXAMPLES)
@given(st.data())
def test_message_when_encoded_and_decoded_then_it_is_the_same(
    kind: type[m.Message], data: st.DataObject
) -> None:
    """Type and every field, at the limits of each field as well."""
    message = data.draw(any_of(kind))
    again = m.decode(m.encode(message))
    assert type(again) is kind
    assert again == message


@pytest.mark.parametrize("kind", m.ALL, ids=name_of)
@settings(max_examples=EXAMPLES)
@given(st.data())
def test_message_when_cut_anywhere_then_it_is_refused(
    kind: type[m.Message], data: st.DataObject
) -> None:
    """No beginning of a message is a message, and nothing may follow one."""
    encoded = m.encode(data.draw(any_of(kind)))
    for length in range(len(encoded)):
        with pytest.raises(ProtocolError):
            m.decode(encoded[:length])
    with pytest.raises(ProtocolError):
        m.decode(encoded + b"\0")


@given(ANY_MESSAGE, st.data())
def test_message_when_bytes_are_garbled_then_it_is_another_or_refused(
    message: m.Message, data: st.DataObject
) -> None:
    """Never another error. What is still a message obeys all limits: it can be sent again."""
    garbled = bytearray(m.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    found = decoded(bytes(garbled))
    if found is not None:
        assert m.decode(m.encode(found)) == found


@given(st.binary(max_size=200))
def test_bytes_when_anything_then_only_protocol_errors_come(data: bytes) -> None:
    """Noise is refused with the one error that receivers expect."""
    decoded(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.sampled_from(m.ALL), st.data())
def test_message_when_a_field_is_of_another_type_then_it_is_refused(
    kind: type[m.Message], data: st.DataObject
) -> None:
    """Well-formed MessagePack with the right names and wrong values is no message either."""
    fields = msgspec.to_builtins(data.draw(any_of(kind)))
    wrong = {**fields, data.draw(st.sampled_from(sorted(fields))): data.draw(JSON)}
    found = decoded(msgspec.msgpack.encode(wrong))
    assert found is None or m.decode(m.encode(found)) == found


@pytest.mark.parametrize("kind", m.ALL, ids=name_of)
@settings(max_examples=EXAMPLES)
@given(st.data())
def test_message_when_it_has_a_field_too_many_then_it_is_refused(
    kind: type[m.Message], data: st.DataObject
) -> None:
    """A newer node says so by its protocol version, not by fields that others overlook."""
    fields = msgspec.to_builtins(data.draw(any_of(kind)))
    with pytest.raises(ProtocolError, match="unknown field"):
        m.decode(msgspec.msgpack.encode({**fields, "more": 1}))


def test_message_when_it_is_nested_without_end_then_it_is_refused() -> None:
    """Before the type's name, so that the decoder has to look past it."""
    with pytest.raises(ProtocolError):
        m.decode(b"\x82\xa1x" + b"\x91" * 100_000 + b"\xc0\xa4type\xb0PublisherStarted")


@pytest.mark.parametrize("name", ["Message", "WirePosition", "Head", "NodeStatusX", "", "object"])
def test_type_when_unknown_then_it_is_refused(name: str) -> None:
    """Only the messages themselves can be sent, not their parts and nothing else."""
    with pytest.raises(ProtocolError):
        m.decode(msgspec.msgpack.encode({"type": name}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("database", ""),
        ("database", "x" * 256),
        ("epoch", -1),
        ("epoch", U64_MAX + 1),
        ("epoch", 1.0),
        ("epoch", "1"),
        ("epoch", True),
        ("checksum", "0" * 15),
        ("checksum", "0" * 17),
        ("checksum", "G" * 16),
        ("checksum", "A" * 16),
        ("page_size", (1 << 32) + 1),
        ("page_size", -1),
    ],
)
def test_value_when_beyond_its_limit_then_it_is_refused(field: str, value: object) -> None:
    """Names, numbers and checksums of a head."""
    parts: dict[str, object] = {"database": "a.db", "epoch": 1, "checksum": "0" * 16}
    parts["page_size"] = 4096
    good = m.DatabaseHeads([m.Head("a.db", m.WirePosition(1, 0, "0" * 16), 4096, 0, 0)])

    def encoded() -> bytes:
        position = [parts["epoch"], 0, parts["checksum"]]
        head = [parts["database"], position, parts["page_size"], 0, 0]
        return msgspec.msgpack.encode({"type": "DatabaseHeads", "heads": [head]})

    assert m.decode(encoded()) == good
    parts[field] = value
    with pytest.raises(ProtocolError):
        m.decode(encoded())


@given(st.integers(0, U64_MAX), st.integers(0, U64_MAX), st.integers(0, (1 << 64) - 1))
def test_position_when_put_on_the_wire_and_taken_off_then_it_is_the_same(
    epoch: int, txid: int, checksum: int
) -> None:
    """Also checksums with all 64 bits in use, as they always are."""
    position = Position(epoch, txid, checksum)
    assert m.WirePosition.of(position).value == position


def test_messages_when_listed_then_every_class_of_the_module_is_among_them() -> None:
    """`ALL` is what can be decoded; a message derived from another would be missing."""
    found = {
        each
        for _, each in inspect.getmembers(m, inspect.isclass)
        if issubclass(each, m.Message) and each is not m.Message
    }
    assert found == set(m.ALL)
    assert all(each.__mro__[1] is m.Message for each in m.ALL)
    tags = [cast("Any", each).__struct_config__.tag for each in m.ALL]
    assert tags == [each.__name__ for each in m.ALL]


@pytest.mark.parametrize("kind", m.ALL, ids=name_of)
def test_message_when_defined_then_it_is_frozen_and_says_what_it_is_for(
    kind: type[m.Message],
) -> None:
    """Its docstring is a sentence of its own; nobody changes a message that is under way."""
    assert re.search(r"\w{2}.*[.:]", inspect.cleandoc(kind.__dict__.get("__doc__") or ""))
    config = cast("Any", kind).__struct_config__
    assert config.frozen
    assert config.forbid_unknown_fields
