"""The `litemq` command."""
from __future__ import annotations

import sys

import click

from litemq import config as configuration
from litemq.errors import LiteMQError


@click.group()
def main() -> None:
    """SQLite, replicated."""

@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--config", "path", required=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def up(path: str, command: tuple[str, ...]) -> None:
    from litemq.actors.supervisor import Supervisor
    try:
        code = Supervisor(configuration.load(path), command).run()
    except LiteMQError as error:
        click.echo(f"litemq: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(code)
