"""The kernel's first request, and what of it reaches libfuse."""

from __future__ import annotations

import struct

import pytest

from litemq.errors import LiteMQError
from litemq.fs.fuse_init import without_offer

AUTO_INVAL_DATA = 1 << 12


def init_request(flags: int, *, opcode: int = 26) -> bytes:
    header = struct.pack("=IIQQIIII", 104, opcode, 2, 0, 0, 0, 0, 0)
    return header + struct.pack("=IIII", 7, 45, 131072, flags) + bytes(48)


def test_init_when_passed_on_then_only_that_offer_is_missing() -> None:
    """All other flags and fields stay as the kernel sent them."""
    assert without_offer(init_request(0xFFFFFFFF)) == init_request(0xFFFFFFFF & ~AUTO_INVAL_DATA)


def test_init_when_it_is_not_offered_then_nothing_changes() -> None:
    """A kernel that never offers it is told nothing new."""
    assert without_offer(init_request(0x5)) == init_request(0x5)


@pytest.mark.parametrize("request_", [init_request(0, opcode=1), b"", bytes(12), bytes(55)])
def test_init_when_it_is_another_request_then_it_is_refused(request_: bytes) -> None:
    """Never guess at bytes of something else."""
    with pytest.raises(LiteMQError, match="FUSE"):
        without_offer(request_)
