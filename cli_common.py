"""What the parts of the command line share: the node's file, progress bars, tables.

Never does a command's work.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from litemq import config as configuration

HELP_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "terminal_width": 100,
}


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that names the node's file; the command gets the checked configuration."""

    @click.option(
        "--config", "file", required=True, metavar="FILE", help="The node's configuration file."
    )
    @functools.wraps(command)
    def wrapped(*args: Any, file: str, **options: Any) -> Any:
        return command(configuration.load(file), *args, **options)

    return wrapped


@contextlib.contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr if that is a terminal; otherwise nothing."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr, width=0) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield show


def table(head: list[str], rows: list[list[str]], *, right: set[int]) -> Iterator[str]:
    """Lines of columns; those in `right` (numbers) end where they should."""
    if not rows:
        rows = [["(none)", *[""] * (len(head) - 1)]]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
