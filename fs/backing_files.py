"""The files behind a mount, in all folders, by their names in it.

Never follows a symbolic link. Always true: a folder comes before what is in it, and one that can't
be read is told and hides nothing but what is in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from litemq import log


def walk(top: Path | str, folder: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Names, as paths from `top`, in their order; folders and links as well. Raises OSError."""
    try:
        with os.scandir(os.path.join(top, folder)) as found:
            entries = sorted(found, key=lambda each: each.name)
    except OSError as error:
        if not folder:
            raise
        log.get().warning("can't read a folder", file=folder, reason=str(error))
        return
    for entry in entries:
        name = os.path.join(folder, entry.name)
        yield name, entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(top, name)
