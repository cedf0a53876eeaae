"""Writes the generated parts of the documentation anew.

Configuration keys, the command line's help, and what programs do when a process dies.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from litemq import cli
from litemq.config import reference

DIRECTORY = Path(__file__).parent
sys.path.append(str(DIRECTORY.parent / "tests" / "support"))
BEGIN = "<!-- begin: configuration keys, written by `make docs` -->"
END = "<!-- end: configuration keys -->"
CLI_BEGIN = "<!-- begin: the command line's own help, written by `make docs` -->"
CLI_END = "<!-- end: the command line's own help -->"
PROGRAMS_BEGIN = "<!-- begin: programs, written by `make docs` -->"
PROGRAMS_END = "<!-- end: programs -->"
PROGRAM_COLUMNS = (
    "program", "set-up", "its FUSE actor died", "its node became the primary: writes",
    "it ceased to be the primary: reads", "it was killed and is back: reads",
    "to have it go on by itself",
)  # fmt: skip


def key_table() -> str:
    rows = ["| section | key | default | must be | what it is for |", "|---|---|---|---|---|"]
    for key in reference():
        default = f"`{key.default}`" if key.default else "required"
        if key.needed_by:
            default = f'required for "{key.needed_by}"'
        rows.append(
            f"| `[{key.section}]` | `{key.name}` | {default} | {key.expects} | {key.description} |"
        )
    return "\n".join(rows)


def program_table() -> str:
    """The rows that tests/test_programs.py holds real programs to."""
    from program_table import PROGRAMS  # beside the tests

    rows = [
        f"| {' | '.join(PROGRAM_COLUMNS)} |",
        "|---" * len(PROGRAM_COLUMNS) + "|",
    ]
    for each in PROGRAMS:
        found = each.recoveries
        cells = [
            f"{each.name} {each.version}".strip(), each.described, found.actor_died.value,
            found.promoted.value, found.deposed.value, found.returned.value, each.advice or "—",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def command_help() -> str:
    """`--help` of the program and of every command, in the order in which they are listed."""
    top = click.Context(cli.litemq, info_name="litemq", **cli.HELP_SETTINGS)
    parts = [f"```text\n{top.get_help()}\n```"]
    parts += _help_of_commands(top, cli.litemq, "##")
    return "\n\n".join(parts)


def _help_of_commands(parent: click.Context, group: click.Group, heading: str) -> Iterator[str]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent, **cli.HELP_SETTINGS)
        yield f"{heading} {context.command_path}\n\n```text\n{context.get_help()}\n```"
        if isinstance(command, click.Group):
            yield from _help_of_commands(context, command, f"{heading}#")


def replaced(text: str, begin: str, end: str, block: str) -> str:
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{block}\n{end}", text)


def main() -> None:
    operations, commands = DIRECTORY / "operations.md", DIRECTORY / "cli.md"
    programs = DIRECTORY / "programs.md"
    programs.write_text(
        replaced(programs.read_text(), PROGRAMS_BEGIN, PROGRAMS_END, program_table())
    )
    operations.write_text(replaced(operations.read_text(), BEGIN, END, key_table()))
    commands.write_text(replaced(commands.read_text(), CLI_BEGIN, CLI_END, command_help()))


if __name__ == "__main__":
    main()
