"""The numbers of the log by name. They are plain integers: a name for the reader, no cost on the
hot path.
"""

from __future__ import annotations

from typing import TypeAlias

Txid: TypeAlias = (
    int  # 1 for a database's first transaction, +1 for each one after it, never a hole
)
Epoch: TypeAlias = int  # number of a term of primaryship; only ever grows
PageNo: TypeAlias = int  # SQLite's page number, from 1
Checksum: TypeAlias = int  # 64 bits; bit 63 is set in every checksum that says something
