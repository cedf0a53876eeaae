"""docs/operations.md against the code: every warning that an operator may see is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "operations.md").read_text()
LEVELS = {"warning", "error", "critical"}
#: by log.py itself, which is not its own user
OF_THE_LOG = {("dropped a strange message", "warning"), ("log lines lost", "warning")}


def logged() -> Iterator[tuple[str, str]]:
    """Event and level of every call that logs above info."""
    for folder in ("actors", "bench", "fs", "transport", "txlog"):
        for path in (REPOSITORY / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(), path)):
                match node:
                    case ast.Call(
                        func=ast.Attribute(value=logger, attr=level),
                        args=[ast.Constant(value=str(event)), *_],
                    ) if level in LEVELS and "log" in ast.unparse(logger):
                        yield event, level


def explained() -> list[tuple[str, str]]:
    block = PAGE.partition("<!-- begin: warnings -->")[2].partition("<!-- end: warnings -->")[0]
    return re.findall(r"^\| `(.+?)` \| (\w+) \|", block, re.MULTILINE)


def test_warnings_when_compared_with_the_code_then_each_is_explained_once() -> None:
    """And none is explained that there is not."""
    assert sorted(explained()) == sorted(set(logged()) | OF_THE_LOG)


@pytest.mark.parametrize("row", re.findall(r"^\| `.+? \|$", PAGE, re.MULTILINE))
def test_row_when_read_then_no_cell_is_empty(row: str) -> None:
    """A warning without advice is noise."""
    assert all(cell.strip() for cell in row.split("|")[1:-1])
