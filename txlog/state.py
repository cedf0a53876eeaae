"""What a database's log knows beside its records, in state.json: small, rare, replaced atomically.

Never on the path of a transaction: it is written at open, close, a new epoch, retention and repair.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litemq.errors import FormatError
from litemq.txlog import position as positions
from litemq.txlog.durable import write_atomically
from litemq.txlog.epochs import EpochTable
from litemq.txlog.position import ZERO, Position

FILE_NAME = "state.json"
_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class State:
    """`page_size` (0 = not known yet) and `n_pages` are those at `base`, the position after which
    the log starts.
    """

    page_size: int = 0
    n_pages: int = 0
    base: Position = ZERO
    epochs: EpochTable = field(default_factory=EpochTable)
    boot_id: str = ""  # boot of the machine in which the writer last opened the log
    clean: bool = False  # closed in order, everything synced
    suspect: bool = False  # page checksums must not be used before a rescan
    resetting: bool = False  # a reset has begun: every record on disk is void
    applied: Position = ZERO  # replicas: what their database file holds at least
    page1_tail: str = ""  # replicas: hex of the 12 bookkeeping bytes SQLite keeps on page 1
    fingerprint: str = ""  # replicas: of the database file as a clean end left it
    role: str = (
        ""  # "primary": the log was read from the file; "replica": the file made from the log
    )
    # Where the content of TXID `captured_txid` came from, if no record says so: as in an LTX header
    # salts, offset, size of frames in the WAL. Counts as long as that TXID is the last.
    captured: list[int] = field(default_factory=list)
    captured_txid: int = 0
    # primaries: the file may have commits that neither the log nor a journal tells of
    unlogged: bool = False
    # when the file was last compared with the log from end to end, 0 for never (ms since 1970)
    verified_ms: int = 0
    last: Position = ZERO  # where the log was closed; counts only if `clean`

    def document(self) -> bytes:
        """What state.json holds."""
        document = {
            "version": _VERSION,
            "page_size": self.page_size,
            "n_pages": self.n_pages,
            "base": self.base.text,
            "epochs": self.epochs.to_list(),
            "boot_id": self.boot_id,
            "clean": self.clean,
            "last": self.last.text,
            "suspect": self.suspect,
            "resetting": self.resetting,
            "applied": self.applied.text,
            "page1_tail": self.page1_tail,
            "fingerprint": self.fingerprint,
            "role": self.role,
            "captured": self.captured,
            "captured_txid": self.captured_txid,
            "unlogged": self.unlogged,
            "verified_ms": self.verified_ms,
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    def save(self, directory: Path) -> None:
        """Raises StorageError; then the old file stands."""
        write_atomically(directory / FILE_NAME, self.document())


def load(directory: Path) -> State | None:
    """The saved state, None if there is none. Raises FormatError naming the file."""
    path = directory / FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document = json.loads(text)
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        epochs = [(_number(epoch), _number(txid)) for epoch, txid in document["epochs"]]
        return State(
            page_size=_number(document["page_size"]),
            n_pages=_number(document["n_pages"]),
            base=positions.parse(document["base"]),
            epochs=EpochTable.from_list(epochs),
            boot_id=str(document["boot_id"]),
            clean=document["clean"] is True,
            last=positions.parse(document.get("last", ZERO.text)),
            suspect=document["suspect"] is True,
            resetting=document["resetting"] is True,
            applied=positions.parse(document["applied"]),
            page1_tail=bytes.fromhex(document["page1_tail"]).hex(),
            fingerprint=str(document.get("fingerprint", "")),
            role=str(document.get("role", "")),
            captured=[_number(each) for each in document.get("captured", [])],
            captured_txid=_number(document.get("captured_txid", 0)),
            unlogged=document.get("unlogged") is True,
            verified_ms=_number(document.get("verified_ms", 0)),
        )
    except (FormatError, ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from error


def current_boot_id() -> str:
    """Changes when the machine restarts, that is, when the page cache was lost."""
    return _BOOT_ID.read_text("ascii").strip()


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a natural number")
    return value
