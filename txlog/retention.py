"""Decides which segments may go. Pure: it is given the clock and touches nothing."""

from __future__ import annotations

from collections.abc import Sequence

from litemq.txlog.segment_files import SegmentInfo


def expired(
    segments: Sequence[SegmentInfo], now_s: float, max_age_s: float, max_bytes: int
) -> list[SegmentInfo]:
    """The oldest segments that are too old or too much, oldest first; a prefix, and never the
    newest one.

    A segment is as old as its last record. Since what goes is a prefix, a segment behind a younger
    one stays.
    """
    total = sum(segment.size for segment in segments)
    gone: list[SegmentInfo] = []
    for segment in segments[:-1]:
        if total <= max_bytes and now_s - segment.mtime_s <= max_age_s:
            break
        total -= segment.size
        gone.append(segment)
    return gone
