"""How long a WAL is without the zeros that were laid out ahead of its writer.

Never writes. Always true: no byte that SQLite wrote lies behind the end, since a frame has a page
number, and what begins without one was never begun.
"""

from __future__ import annotations

from collections.abc import Callable

from litemq.errors import FormatError
from litemq.fs.wal import FRAME_HEADER_BYTES, WAL_HEADER_BYTES, parse_wal_header


def written_end(read: Callable[[int, int], bytes], size: int) -> int:
    """Where the last frame that was begun ends; `size` if that can't be told, or is less.

    `read(offset, size)` gives bytes of the `size` that the file has.
    """
    try:
        header = parse_wal_header(read(0, WAL_HEADER_BYTES))
    except FormatError:
        return size
    frame_bytes = FRAME_HEADER_BYTES + header.page_size
    frames = -(-(size - WAL_HEADER_BYTES) // frame_bytes)
    while frames:
        start = WAL_HEADER_BYTES + (frames - 1) * frame_bytes
        if read(start, FRAME_HEADER_BYTES).strip(b"\0"):
            break
        frames -= 1
    return min(WAL_HEADER_BYTES + frames * frame_bytes, size)
