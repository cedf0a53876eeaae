"""What a node had beyond the common history with its new primary: kept before a repair replaces it.

diverged/ID/divergence.json   what parted from what, when and why
diverged/ID/log/              the segments of the log, as they were
diverged/ID/pages.sum         page checksums at its end, 8 bytes a page
diverged/ID/database          the database at its end, where that could be kept

Always true: an entry that is seen under its ID is whole and on the disk, one history has one entry,
and nothing is overwritten. Only `remove`, which a user asks for, takes one away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litemq.errors import FormatError, LiteMQError
from litemq.fs.names import log_folder
from litemq.txlog import position as positions
from litemq.txlog.durable import storage_error, sync_directory
from litemq.txlog.epochs import EpochTable
from litemq.txlog.position import Position
from litemq.txlog.segment_reader import SegmentReader

DESCRIPTION = "divergence.json"
LOG_FOLDER = "log"
CHECKSUMS = "pages.sum"
DATABASE = "database"
_VERSION = 1
#: of an entry that is being made, or removed
_PARTIAL = ".tmp"


@dataclass(frozen=True, slots=True)
class Divergence:
    """One entry. TXIDs of the log that was kept are `first_txid` to `last_txid`, 0 for none."""

    id: str
    database: str
    when: str
    reason: str
    epochs: list[tuple[int, int]]
    head: Position
    first_txid: int
    last_txid: int
    page_size: int
    pages: int
    primary: str
    primary_epoch: int
    #: up to here both histories are the same; None: not known, so everything is doubtful
    last_common: int | None
    directory: Path

    @property
    def from_txid(self) -> int:
        """The first transaction that diverged, or may have."""
        return self.first_txid if self.last_common is None else self.last_common + 1

    @property
    def transactions(self) -> int:
        """How many of them were kept."""
        if not self.last_txid:
            return 0
        return max(0, self.last_txid - max(self.from_txid, self.first_txid) + 1)

    @property
    def table(self) -> EpochTable:
        return EpochTable.from_list(self.epochs)

    def reader(self) -> SegmentReader:
        """Of the log; it may hold more than `last_txid`."""
        return SegmentReader(self.directory / LOG_FOLDER)

    def size_bytes(self) -> int:
        """Of all files, as they count on the disk while the log itself is gone."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())


@dataclass(frozen=True, slots=True)
class Damaged:
    """An entry whose description can't be read."""

    id: str
    reason: str
    directory: Path


def last_common(
    mine: EpochTable, head: Position, theirs: EpochTable, their_head: Position, *, differ: bool
) -> int | None:
    """The last TXID of both histories, None if that can't be told.

    `differ`: checksums have shown that they part somewhere, so the tables must say so, too.
    """
    common = mine.last_common(theirs, head=head.txid, other_head=their_head.txid)
    if common == head.txid == their_head.txid and head.checksum != their_head.checksum:
        return None
    if not common or (differ and common >= head.txid):
        return None
    return common


# --- keeping


def keep(
    folder: Path,
    about: Divergence,
    log: Path,
    checksums: bytes,
    write_database: Callable[[int], None] | None,
) -> Divergence:
    """Make the entry `about` below `folder`; its ID is chosen here. Raises OSError, LiteMQError.

    `log` is the folder with the segments, which stay where they are. What is kept already, because
    an earlier repair did not come to its end, is left as it is.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        sync_directory(folder.parent)
    wanted = f"{log_folder(about.database)}-e{about.head.epoch}-{about.head.txid}"
    number, name = 1, wanted
    while (folder / name).exists():
        there = load(folder / name)
        if isinstance(there, Divergence) and there.head == about.head:
            return there
        number += 1
        name = f"{wanted}-{number}"
    entry = replace(about, id=name, directory=folder / name)
    partial = folder / f"{name}{_PARTIAL}"
    if partial.exists():  # an attempt that a crash or a full disk has ended
        shutil.rmtree(partial)
    try:
        (partial / LOG_FOLDER).mkdir(parents=True, mode=0o700)
        for segment in log.iterdir():
            os.link(segment, partial / LOG_FOLDER / segment.name)
        _write(partial / CHECKSUMS, checksums)
        if write_database is not None:
            with (partial / DATABASE).open("wb") as file:
                write_database(file.fileno())
                os.fsync(file.fileno())
        _write(partial / DESCRIPTION, _described(entry))
        sync_directory(partial / LOG_FOLDER)
        sync_directory(partial)
        partial.rename(entry.directory)
        sync_directory(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return entry


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _described(entry: Divergence) -> bytes:
    fields = asdict(entry) | {"version": _VERSION, "head": entry.head.text}
    del fields["directory"]
    return json.dumps(fields, indent=1).encode() + b"\n"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- what is there


def entries(folder: Path) -> list[Divergence | Damaged]:
    """All of them, oldest first."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, "list", folder) from error
    found = [load(folder / name) for name in names if not name.endswith(_PARTIAL)]
    return sorted(found, key=lambda entry: "" if isinstance(entry, Damaged) else entry.when)


def count(folder: Path) -> int:
    """How many there are, without reading them."""
    try:
        return sum(not name.endswith(_PARTIAL) for name in os.listdir(folder))
    except OSError:
        return 0


def find(folder: Path, name: str) -> Divergence | Damaged:
    """The entry with that ID. Raises LiteMQError."""
    for entry in entries(folder):
        if entry.id == name:
            return entry
    raise LiteMQError(f"nothing diverged has the ID {name!r}; see `litemq diverged list`")


def load(directory: Path) -> Divergence | Damaged:
    path = directory / DESCRIPTION
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        if fields.pop("version") != _VERSION:
            raise ValueError("it is of another version")
        common = fields.pop("last_common")
        epochs = EpochTable.from_list([(int(a), int(b)) for a, b in fields.pop("epochs")])
        return Divergence(
            **fields
            | {
                "id": directory.name,
                "head": positions.parse(fields["head"]),
                "epochs": epochs.to_list(),
                "last_common": None if common is None else int(common),
                "directory": directory,
            }
        )
    except OSError as error:
        return Damaged(directory.name, f"{path}: {error.strerror}", directory)
    except (ValueError, TypeError, KeyError, AttributeError, FormatError) as error:
        return Damaged(directory.name, f"{path} is damaged: {error}", directory)


def readable(entry: Divergence | Damaged) -> Divergence:
    """Raises FormatError if it is not."""
    if isinstance(entry, Damaged):
        raise FormatError(entry.reason)
    return entry


def records(entry: Divergence, first: int, last: int) -> Iterator[bytes]:
    """The log's records from `first` to `last`. Raises FormatError, TooOldError."""
    reader, txid = entry.reader(), first
    while txid <= last:
        found = reader.read(txid, 4 << 20, last - txid + 1)
        if not found:
            raise FormatError(f"TXID {txid} is missing from {entry.directory / LOG_FOLDER}")
        yield from found
        txid += len(found)


def remove(entry: Divergence | Damaged) -> None:
    """For ever. Raises StorageError."""
    gone = entry.directory.with_name(f"{entry.id}{_PARTIAL}")
    try:
        entry.directory.rename(gone)
        sync_directory(gone.parent)
        shutil.rmtree(gone)
    except OSError as error:
        raise storage_error(error, "remove", entry.directory) from error
