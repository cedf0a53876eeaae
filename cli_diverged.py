"""`litemq diverged`: what was kept aside because the new primary does not have it.

Reads files of the data directory only, so the node need not run. Nothing but `drop` removes
anything.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from litemq.cli_common import progress, table, with_config
from litemq.config import Config
from litemq.errors import ConfigError, LiteMQError

if TYPE_CHECKING:
    from litemq.actors.diverged_content import Change, Content
    from litemq.actors.divergence import Damaged, Divergence

_format = click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)


@click.group(
    subcommand_metavar="COMMAND [ARGS]...",
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.pass_context
def diverged(context: click.Context) -> None:
    """Look after transactions that the new primary does not have.

    A node that comes back after another one has become primary may have transactions which that one
    never got. Its database is repaired to the primary's state; its log is kept aside before that,
    for as long as you want. Works whether the node runs or not.

    \b
    Examples:
      litemq diverged list --config a.toml
      litemq diverged show --config a.toml notes.db-e3-105
      litemq diverged export --config a.toml notes.db-e3-105 /tmp/lost
      litemq diverged drop --config a.toml notes.db-e3-105
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@diverged.command("list")
@with_config
@_format
def list_(config: Config, style: str) -> None:
    """List what was kept aside, oldest first.

    FROM and TO are TXIDs. A "?" after FROM means that the epochs do not tell where the histories
    part: then everything that was kept counts.

    \b
    Examples:
      litemq diverged list --config a.toml
      litemq diverged list --config a.toml --format json | jq '.[].id'
    """
    from litemq.actors import divergence
    from litemq.actors.layout import Layout

    found = divergence.entries(Layout(config.node.data_dir).diverged)
    if style == "json":
        click.echo(json.dumps([_as_json(entry) for entry in found], indent=2))
        return
    if not found:
        click.echo("nothing diverged")
        return
    rows, damaged = [], []
    for entry in found:
        if isinstance(entry, divergence.Damaged):
            damaged.append(entry)
            continue
        rows.append(
            [
                entry.id,
                entry.database,
                ", ".join(map(str, _epochs(entry))),
                f"{entry.from_txid}{'?' if entry.last_common is None else ''}",
                str(entry.head.txid),
                str(entry.transactions),
                entry.when,
                f"{entry.size_bytes() / 1024:.0f} KiB",
            ]
        )
    head = ["ID", "DATABASE", "EPOCHS", "FROM", "TO", "KEPT", "WHEN", "SIZE"]
    for line in table(head, rows, right={3, 4, 5, 7}):
        click.echo(line)
    for each in damaged:
        click.echo(f"{each.id}: {each.reason}")


@diverged.command()
@with_config
@_format
@click.argument("id")
def show(config: Config, style: str, id: str) -> None:  # noqa: A002 - as in the help
    """Show what each transaction of an entry did: tables, and rows inserted, deleted, changed.

    A row count that is given is exact. It is "?" where pages from before the transaction are not
    known, because the log that was kept does not reach back that far.

    \b
    Examples:
      litemq diverged show --config a.toml notes.db-e3-105
      litemq diverged show --config a.toml notes.db-e3-105 --format json
    """
    entry, content, bar = _open(config, id)
    with bar as advance:
        content.on_progress(advance)
        changes = list(content.changes())
    if style == "json":
        fields = _as_json(entry) | {"transactions": [_change_as_json(each) for each in changes]}
        click.echo(json.dumps(fields, indent=2))
        return
    click.echo(f"{entry.id}: {entry.database}, kept {entry.when}")
    click.echo(f"primary: {entry.primary or '?'}, epoch {entry.primary_epoch}; {entry.reason}")
    for line in _extent(entry):
        click.echo(line)
    if not changes:
        return
    click.echo("")
    rows = [row for change in changes for row in _rows(change)]
    head = ["TXID", "EPOCH", "TIME", "PAGES", "TABLE", "PAGES", "INSERTED", "DELETED", "CHANGED"]
    for line in table(head, rows, right={0, 1, 3, 5, 6, 7, 8}):
        click.echo(line)
    if any("?" in row for row in rows):
        click.echo("")
        click.echo("?: not known, because the log that was kept does not reach back far enough")


@diverged.command()
@with_config
@click.option(
    "--database",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PATH",
    help="Write the database as it was at the end of this history to PATH, too.",
)
@click.argument("id")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
def export(
    config: Config,
    database: Path | None,
    id: str,  # noqa: A002 - as in the help
    directory: Path | None,
) -> None:
    """Write the transactions of an entry as LTX files below DIRECTORY.

    `litestream restore` reads them. They are everything from the first transaction on if the log
    that was kept reaches back to it; otherwise those that diverged, after a snapshot of what was
    before them. Where that is not known either, they stand alone, and you are told.

    With --database, PATH becomes a SQLite file; what is there is replaced.

    \b
    Examples:
      litemq diverged export --config a.toml notes.db-e3-105 /tmp/lost
      litemq diverged export --config a.toml notes.db-e3-105 --database /tmp/lost.db
    """
    if directory is None and database is None:
        raise ConfigError("name a DIRECTORY for LTX files, or --database PATH, or both")
    entry, content, bar = _open(config, id)
    with bar as advance:
        content.on_progress(advance)
        if directory is not None:
            count, restorable = content.write_ltx(directory)
            noun = "file" if count == 1 else "files"
            note = (
                "" if restorable else "; no database can be made of them, what was before is lost"
            )
            click.echo(f"{entry.id}: {count} LTX {noun} to {directory}{note}")
        if database is not None:
            pages = content.write_database(database)
            size = entry.page_size
            click.echo(f"{entry.id}: {pages} pages of {size} bytes to {database}")


@diverged.command()
@with_config
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("id")
def drop(config: Config, yes: bool, id: str) -> None:  # noqa: A002 - as in the help
    """Remove an entry for ever: these transactions are then nowhere.

    Asks first; where there is no terminal, it wants --yes.

    \b
    Examples:
      litemq diverged drop --config a.toml notes.db-e3-105
      litemq diverged drop --config a.toml notes.db-e3-105 --yes
    """
    from litemq.actors import divergence
    from litemq.actors.layout import Layout

    entry = divergence.find(Layout(config.node.data_dir).diverged, id)
    if not yes:
        if not sys.stdin.isatty():
            raise LiteMQError(f"{entry.id} is not removed without a question; add --yes")
        what = "it" if isinstance(entry, divergence.Damaged) else f"{entry.transactions} of them"
        click.confirm(f"{entry.id}: remove {what} for ever?", abort=True)
    divergence.remove(entry)
    click.echo(f"{entry.id}: removed")


def _open(config: Config, name: str) -> tuple[Divergence, Content, Any]:
    from litemq.actors import divergence
    from litemq.actors.diverged_content import Content
    from litemq.actors.layout import Layout

    layout = Layout(config.node.data_dir)
    entry = divergence.readable(divergence.find(layout.diverged, name))
    folder = layout.files if config.mount.fuse else config.mount.path
    return entry, Content(entry, folder / entry.database), progress(f"reading {name}")


def _epochs(entry: Divergence) -> list[int]:
    """Those in which the transactions that were kept were written."""
    first = max(entry.from_txid, entry.first_txid)
    found = [entry.table.at(first)] if first <= entry.head.txid else []
    found += [epoch for epoch, txid in entry.epochs if first < txid <= entry.head.txid]
    return found


def _extent(entry: Divergence) -> list[str]:
    last = entry.head.txid
    if entry.last_common is None:
        doubt = "the epochs do not tell where the histories part, so all that was kept is shown"
        return [f"{entry.transactions} transactions up to TXID {last}; {doubt}"]
    beyond = last - entry.last_common
    lines = [f"{beyond} transactions beyond TXID {entry.last_common}, up to TXID {last}"]
    if entry.transactions < beyond:
        lines.append(f"{beyond - entry.transactions} of them were not in the log any more")
    return lines


def _rows(change: Change) -> list[list[str]]:
    parts = [
        [each.table, str(each.pages), *map(_number, (each.inserted, each.deleted, each.changed))]
        for each in change.tables
    ]
    if change.unknown:
        parts.append(["(unknown)", str(change.unknown), "?", "?", "?"])
    if change.dropped:
        parts.append(["(database deleted)", "", "", "", ""])
    if not parts:
        parts.append(["(none)", "", "", "", ""])
    time = _time(change.timestamp_ms)
    first = [str(change.txid), str(change.epoch), time, str(change.pages)]
    return [[*(first if not at else [""] * 4), *part] for at, part in enumerate(parts)]


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _time(timestamp_ms: int) -> str:
    from datetime import UTC, datetime

    time = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_json(entry: Divergence | Damaged) -> dict[str, Any]:
    from litemq.actors import divergence

    if isinstance(entry, divergence.Damaged):
        return {"id": entry.id, "damaged": entry.reason}
    return {
        "id": entry.id,
        "database": entry.database,
        "epochs": _epochs(entry),
        "from_txid": entry.from_txid,
        "to_txid": entry.head.txid,
        "kept": entry.transactions,
        "last_common": entry.last_common,
        "when": entry.when,
        "primary": entry.primary,
        "primary_epoch": entry.primary_epoch,
        "reason": entry.reason,
        "bytes": entry.size_bytes(),
    }


def _change_as_json(change: Change) -> dict[str, Any]:
    from dataclasses import asdict

    fields = asdict(change)
    return fields | {"time": _time(fields.pop("timestamp_ms"))}
