"""Names and sizes of log segments, and the index beside each: what the writer and its readers agree
on.

A segment DIR/<first TXID, 16 hex digits>.seg holds records back to back. DIR/<same>.idx holds, per
record, the offset at which it ends (8 bytes, big-endian): entry i belongs to TXID first+i, since
TXIDs have no holes. The index is a cache and may be missing, short or wrong; nothing is believed
because it stands there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from litemq.txlog.ids import Txid

SUFFIX = ".seg"
INDEX_SUFFIX = ".idx"
ENTRY_SIZE = 8
_NAME = re.compile(r"([0-9a-f]{16})\.seg")


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """`last_txid` is first_txid - 1 for a segment without records."""

    path: Path
    first_txid: Txid
    last_txid: Txid
    size: int
    mtime_s: float


def segment_path(directory: Path, first_txid: Txid) -> Path:
    return directory / f"{first_txid:016x}{SUFFIX}"


def index_path(segment: Path) -> Path:
    return segment.with_suffix(INDEX_SUFFIX)


def list_segments(directory: Path) -> list[tuple[Txid, Path]]:
    """First TXID and path of every segment, oldest first."""
    found = []
    for name in os.listdir(directory):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.append((int(match[1], 16), directory / name))
    found.sort()
    return found
