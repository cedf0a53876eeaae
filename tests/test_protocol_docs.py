"""docs/protocol.md against the code: the table of messages is complete and holds nothing else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from litemq.actors import (
    barriers,
    catching_up,
    crew,
    drain,
    election_watcher,
    file_capture,
    fresh_positions,
    fuse_capture,
    group_commit,
    handed_over,
    journal_capture,
    log_writer,
    presence,
    relay_publisher,
    relaying,
    replica_applier,
    role_change,
    set_back,
    stream_publisher,
    supervisor,
    upkeep,
    withheld,
    write_proofs,
)
from litemq.transport import frames, messages, sockets

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "protocol.md").read_text()
COLUMNS = ["name", "from", "to", "socket", "payload", "answered by"]
MESSAGES = {each.__name__: each for each in messages.ALL}
SOCKETS = {
    "control",
    "election",
    "gates",
    "log",
    "records",
    "reply",
    "stream",
    "requests",
    "answers",
}
#: who takes part, and the source that speaks for it; commands have many
SOURCES = {
    "fuse_capture": [fuse_capture, fresh_positions, handed_over, write_proofs],
    "log_writer": [log_writer, barriers, group_commit, file_capture, journal_capture, withheld],
    "stream_publisher": [stream_publisher, relay_publisher],
    "replica_applier": [replica_applier, catching_up, presence, relaying, set_back, upkeep],
    "supervisor": [supervisor, crew, drain, role_change],
    "election_watcher": [election_watcher],
}
GROUPS = {"actor", "log owner", "command", "every replica", "whoever asked"}


def table() -> list[dict[str, str]]:
    block = PAGE.partition("<!-- begin: messages -->")[2].partition("<!-- end: messages -->")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.strip().split("\n")]
    assert lines[0] == COLUMNS
    return [dict(zip(COLUMNS, cells, strict=True)) for cells in lines[2:]]


ROWS = table()


def name_of(row: dict[str, str]) -> str:
    return row["name"].strip("`")


def test_table_when_compared_with_the_code_then_every_message_is_in_it_once() -> None:
    """Nothing is missing, nothing is there twice, nothing is there that does not exist."""
    assert sorted(map(name_of, ROWS)) == sorted(MESSAGES)


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_row_when_read_then_its_words_are_known(row: dict[str, str]) -> None:
    """Actors, sockets and answers are those that there are."""
    for side in ("from", "to"):
        assert set(row[side].split(", ")) <= SOURCES.keys() | GROUPS
    assert set(re.split(", | or ", row["socket"])) <= SOCKETS
    assert set(re.findall(r"`([A-Z]\w+)`", row["answered by"])) <= MESSAGES.keys()


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_row_when_it_names_an_actor_then_that_speaks_of_the_message(row: dict[str, str]) -> None:
    """Sender and receiver have the message in their source, as far as the row names them."""
    for side in ("from", "to"):
        for actor in row[side].split(", "):
            modules = SOURCES.get(actor, [])
            if actor == "stream_publisher" and name_of(row).startswith(
                ("Repair", "Records", "Tra")
            ):
                continue  # its transfers are a module of their own
            if modules:
                text = "".join(map(inspect.getsource, modules))
                assert re.search(rf"\bm\.{name_of(row)}\b", text), (actor, name_of(row))


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_row_when_it_has_a_payload_then_the_message_says_how_to_read_it(
    row: dict[str, str],
) -> None:
    """Lengths of records, numbers of pages, or where checksums begin; and the other way round."""
    fields = set(MESSAGES[name_of(row)].__struct_fields__)
    if row["payload"]:
        assert fields & {"lengths", "numbers", "first_page"}
    elif "lengths" in fields:
        raise AssertionError("a message with lengths and nothing to cut")


def test_page_when_it_tells_numbers_then_they_are_those_of_the_code() -> None:
    """Version and limits."""
    text = re.sub(r"\s+", " ", PAGE)
    assert f"**Version.** It is {frames.VERSION}." in text
    assert f"| frames of a datagram | {frames.MAX_FRAMES} |" in text
    assert f"| bytes of a frame | {frames.MAX_FRAME_BYTES >> 20} MiB |" in text
    assert f"| {sockets.LOCAL_HWM:,} |" in text
    assert f"| transfers of a primary | {stream_publisher.MAX_TRANSFERS:,};" in text
    assert f"gives {catching_up.CREDIT_BYTES >> 20} MiB with a request" in text
    assert f"| {handed_over.OUTSTANDING_BYTES >> 20} MiB | the end of the next journal" in text
