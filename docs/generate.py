"""Writes the generated parts of the documentation anew: configuration keys, command-line help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from litemq import cli
from litemq.config import reference

DIRECTORY = Path(__file__).parent
BEGIN = "<!-- begin: configuration keys, written by `make docs` -->"
END = "<!-- end: configuration keys -->"
CLI_BEGIN = "<!-- begin: the command line's own help, written by `make docs` -->"
CLI_END = "<!-- end: the command line's own help -->"


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
    operations.write_text(replaced(operations.read_text(), BEGIN, END, key_table()))
    commands.write_text(replaced(commands.read_text(), CLI_BEGIN, CLI_END, command_help()))


if __name__ == "__main__":
    main()
