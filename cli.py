"""The `litemq` command: options, printing, exit codes. `cli_*.py` beside it are its parts.

Never does the work itself: that is done in `actors/` and `bench/`, which are imported by the
command that needs them. Always true: what goes wrong on purpose is one line on stderr that begins
with `litemq:`, and the exit code of its error.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from litemq.cli_bench import bench, demo
from litemq.cli_common import HELP_SETTINGS, progress, table, with_config
from litemq.cli_diverged import diverged
from litemq.config import Config
from litemq.errors import ConfigError, LiteMQError

if TYPE_CHECKING:
    from litemq.actors.verify import Verdict
    from litemq.transport import messages as m

EXIT_DIFFERS = 1
EXIT_NOT_READY = 3
EXIT_INTERRUPTED = 130


class _Program(click.Group):
    """The group of all commands; a reader of our output that leaves early is no error."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # nothing may be flushed into the pipe at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.group(
    cls=_Program,
    context_settings=HELP_SETTINGS,
    subcommand_metavar="[COMMAND] [ARGS]...",
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.pass_context
def litemq(context: click.Context) -> None:
    """SQLite, replicated: a directory whose databases reach every replica, whole and in order.

    \b
    Every command that speaks of a node takes its file:
      litemq up --config a.toml
      litemq status --config a.toml

    Exit codes: 0 done, 1 it failed or something differs, 2 usage or configuration, 3 up but not
    ready, 4 not running.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# --- a node


@litemq.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@with_config
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGS]...]")
def up(config: Config, command: tuple[str, ...]) -> int:
    """Run a node in the foreground.

    Mounts the directory, captures or applies, streams. SIGINT and SIGTERM drain the node: what is
    committed reaches the log and the connected replicas; then it unmounts and exits with 0.

    With a command, that is started when the node is ready and gets the signals; the node ends with
    it and with its exit code. `on-role-change` in [app] says what a change of role does to it.

    \b
    Examples:
      litemq up --config a.toml
      litemq up --config a.toml -- python3 app.py --port 8000
    """
    from litemq.actors.supervisor import Supervisor

    return Supervisor(config, command).run()


@litemq.command()
@with_config
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def status(config: Config, style: str) -> int:
    """Show what a node is, has and does.

    Exit code 0 when it is ready, 3 when it is up but not ready, 4 when it is not running.

    \b
    Examples:
      litemq status --config a.toml
      litemq status --config a.toml --format json | jq .databases
    """
    from litemq.actors import divergence
    from litemq.actors.client import NodeClient
    from litemq.actors.layout import Layout

    with NodeClient(config) as client:
        found = client.status()
    kept = divergence.count(Layout(config.node.data_dir).diverged)
    if style == "json":
        click.echo(_status_json(found, kept))
    else:
        for line in _status_lines(found, kept):
            click.echo(line)
    return 0 if found.ready else EXIT_NOT_READY


@litemq.command()
@with_config
@click.option("--to", "target", default="", metavar="NODE", help="The node that takes over.")
def handoff(config: Config, target: str) -> None:
    """Have another node be the primary.

    Writers wait until that node has everything that was committed, then it takes over. Without
    --to it is the one that is furthest. If it does not catch up, nothing changes.

    \b
    Examples:
      litemq handoff --config a.toml
      litemq handoff --config a.toml --to b
    """
    from litemq.actors.client import NodeClient

    with NodeClient(config) as client:
        refused = client.hand_over(target)
    if refused:
        raise LiteMQError(f"no hand-over: {refused}")
    click.echo("handed over")


@litemq.command()
@with_config
def promote(config: Config) -> None:
    """Have this node be the primary: it asks the one that is to hand over.

    \b
    Examples:
      litemq promote --config b.toml
    """
    from litemq.actors.client import NodeClient

    with NodeClient(config) as client:
        refused = client.take_over()
    if refused:
        raise LiteMQError(f"not promoted: {refused}")
    click.echo("promoted")


@litemq.command()
@with_config
@click.option(
    "--format", "style", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def cluster(config: Config, style: str) -> None:
    """All nodes of the cluster, as the lease service knows them. Any node can be asked.

    \b
    Examples:
      litemq cluster --config a.toml
      litemq cluster --config a.toml --format json
    """
    import json

    import msgspec

    from litemq.actors.client import NodeClient

    with NodeClient(config) as client:
        members = client.members()
    if style == "json":
        click.echo(json.dumps([msgspec.to_builtins(each) for each in members], indent=2))
        return
    head = ["NODE", "ADDRESS", "ROLE", "ALIVE", "CANDIDATE", "EPOCH", "TXIDS", "SINCE (UTC)", "WHY"]
    rows = [
        [
            each.node, each.address, each.role, "yes" if each.alive else "no",
            "yes" if each.candidate else "no", str(each.epoch), str(each.txids),
            _utc(each.since_ms), each.why,
        ]
        for each in members
    ]  # fmt: skip
    for line in table(head, rows, right={5, 6}):
        click.echo(line)


@litemq.command()
@with_config
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written, until Ctrl-C.")
@click.option("--actor", metavar="NAME", help="Only lines of this actor, such as log_writer.")
@click.option("--db", "database", metavar="NAME", help="Only lines about this database.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="debug",
    help="Only lines at least as severe.",
)
def tail(config: Config, follow: bool, actor: str | None, database: str | None, level: str) -> None:
    """Print a node's log: readable on a terminal, one JSON object per line otherwise.

    Reads the files, so the node need not run.

    \b
    Examples:
      litemq tail --config a.toml -f
      litemq tail --config a.toml --level warning --db notes.db
    """
    from litemq import log, log_tail

    path = log.log_path(config.node.data_dir)
    if not follow and not path.parent.is_dir():
        raise LiteMQError(f"{path} is not there: node {config.node.name} has never run")
    pretty = sys.stdout.isatty()
    colors = pretty and "NO_COLOR" not in os.environ
    wanted = log_tail.Filter(actor=actor, database=database, level=level)
    for record in log_tail.tail(path, follow=follow, wanted=wanted):
        if pretty:
            click.echo(log.as_pretty(record, colors=colors), color=colors)
        else:
            sys.stdout.buffer.write(log.as_json(record))
            sys.stdout.buffer.flush()


# --- databases


@litemq.command()
@with_config
@click.option("--ltx", is_flag=True, help="Write LTX files below the directory PATH instead.")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
def export(config: Config, ltx: bool, name: str, path: Path) -> None:
    """Copy a database out of a running node, while it is being written.

    PATH becomes a plain SQLite file that holds the state of one transaction; what was there is
    replaced. From any node: a replica exports what its readers see. Writers are not held up.

    With --ltx the directory PATH gets the log as LTX files, which `litestream restore` reads: every
    transaction when the log reaches back to the first, otherwise a snapshot.

    \b
    Examples:
      litemq export --config b.toml notes.db /backup/notes.db
      litemq export --config b.toml --ltx notes.db /backup/notes
      litestream restore -o notes.db file:///backup/notes
    """
    from litemq.actors import export as exports
    from litemq.actors.client import NodeClient

    with NodeClient(config) as client, progress(f"exporting {name}") as show:
        if ltx:
            count, position = exports.export_history(config, client, name, path, show)
            text = f"{count} LTX file{'' if count == 1 else 's'}"
        else:
            done = exports.export_database(config, client, name, path, show)
            position, text = done.position, f"{done.pages} pages of {done.page_size} bytes"
    click.echo(f"{name}: TXID {position.txid}, {text}, to {path}")


@litemq.command("import")
@with_config
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
def import_(config: Config, name: str, path: Path) -> None:
    """Put a SQLite file into the primary's mount, as one transaction.

    Creates the database NAME or replaces it: readers and replicas see the old one or the new one.
    PATH is checked by SQLite first and may have a WAL; what is no SQLite database, or is damaged,
    is refused. To change the page size of a database in WAL mode nobody else may have it open.

    \b
    Examples:
      litemq import --config a.toml notes.db /backup/notes.db
    """
    from litemq.actors.client import NodeClient
    from litemq.actors.importing import import_database

    with NodeClient(config) as client, progress(f"importing {name}") as show:
        head = import_database(config, client, name, path, show)
    click.echo(
        f"{name}: TXID {head.position.txid}, {head.pages} pages of {head.page_size} bytes, "
        f"from {path}"
    )


@litemq.command()
@with_config
@click.argument("name", required=False)
def verify(config: Config, name: str | None) -> int:
    """Compare every page of a database (of all without NAME) with the log's checksums.

    Pages are read as SQLite shows them, while the database is in use; on a replica the log is
    compared with the primary's as well. Exit code 1 and the list of pages if anything differs.

    \b
    Examples:
      litemq verify --config b.toml
      litemq verify --config b.toml notes.db
    """
    from litemq.actors.client import NodeClient
    from litemq.actors.verify import verify as verifications

    code = 0
    with NodeClient(config) as client, contextlib.ExitStack() as bars:

        def bar(database: str) -> Callable[[int, int], None]:
            bars.close()
            return bars.enter_context(progress(f"verifying {database}"))

        for verdict in verifications(config, client, name, bar):
            bars.close()
            click.echo(_verdict_line(verdict))
            code = code if verdict.ok else EXIT_DIFFERS
    return code


def _verdict_line(verdict: Verdict) -> str:
    if verdict.ok:
        rest = f"; {verdict.note}" if verdict.note else ""
        return f"{verdict.name}: ok, {verdict.n_pages} pages at TXID {verdict.txid}{rest}"
    parts = []
    if verdict.pages:
        noun = "page differs" if len(verdict.pages) == 1 else "pages differ"
        numbers = ", ".join(map(str, verdict.pages))
        parts.append(f"{len(verdict.pages)} {noun} from the log: {numbers}")
    if verdict.problem:
        parts.append(verdict.problem)
    return f"{verdict.name}: {'; '.join(parts)}"


litemq.add_command(diverged)
litemq.add_command(bench)
litemq.add_command(demo)


# --- this program


@litemq.command()
def version() -> None:
    """Print the version of litemq, and of the SQLite and FUSE bindings it uses."""
    for package in ("litemq", "sqlean.py", "pyfuse3", "pyzmq"):
        click.echo(f"{package} {_version_of(package)}")


def _version_of(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed as a package)"


# --- how status looks


def _status_json(status: m.NodeStatus, diverged: int) -> str:
    import json

    import msgspec

    fields = msgspec.to_builtins(status)
    keys = (
        "node", "role", "epoch", "primary", "since_ms", "why", "ready", "databases", "replicas",
        "actors",
    )  # fmt: skip
    return json.dumps({key: fields[key] for key in keys} | {"diverged": diverged}, indent=2)


def _status_lines(status: m.NodeStatus, diverged: int) -> Iterator[str]:
    ready = "ready" if status.ready else "not ready"
    yield f"node {status.node}: {status.role}, {ready}, epoch {status.epoch}"
    yield f"primary: {status.primary}"
    yield f"{status.role} since {_utc(status.since_ms)} UTC: {status.why}"
    if diverged:
        yield f"diverged: {diverged} kept aside; see `litemq diverged list`"
    yield ""
    yield from table(
        ["DATABASE", "TXID", "CHECKSUM", "PAGES", "PAGE SIZE", "LAG", "STATE", "VERIFIED"],
        [
            [
                each.name,
                str(each.txid),
                each.checksum,
                str(each.pages),
                str(each.page_size),
                f"{each.lag_ms} ms",
                each.state,
                _utc(each.verified_ms) if each.verified_ms else "never",
            ]
            for each in status.databases
        ],
        right={1, 3, 4, 5},
    )
    yield from (f"{each.name}: {each.reason}" for each in status.databases if each.reason)
    if status.role == "primary":
        yield ""
        yield from table(
            ["REPLICA", "CONNECTED", "DATABASE", "TXID", "BEHIND"],
            [
                [each.node, "yes" if each.connected else "no", *row]
                for each in status.replicas
                for row in (
                    [[one.name, str(one.txid), str(one.lag_txids)] for one in each.databases]
                    or [["-", "-", "-"]]
                )
            ],
            right={3, 4},
        )
    yield ""
    yield from table(
        ["ACTOR", "PID", "STATE", "RESTARTS", "RSS"],
        [
            [
                each.name,
                str(each.pid),
                each.state,
                str(each.restarts),
                f"{each.rss_bytes / (1 << 20):.1f} MiB",
            ]
            for each in status.actors
        ],
        right={1, 3, 4},
    )


def _utc(since_ms: int) -> str:
    return datetime.fromtimestamp(since_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- the program's edge


def main() -> None:
    """Run the command line and exit with its code."""
    _speak_utf8()
    try:
        code = litemq.main(prog_name="litemq", standalone_mode=False)
        sys.stdout.flush()
    except LiteMQError as error:
        _say(str(error))
        code = error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "litemq"
        _say(f"{error.format_message()} Try `{where} --help`.")
        code = ConfigError.exit_code
    except click.ClickException as error:
        _say(error.format_message())
        code = LiteMQError.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    gc.freeze()  # the interpreter would look through all that was imported once more: 15 ms
    sys.exit(code)


def _speak_utf8() -> None:
    """Names of files are bytes to SQLite and UTF-8 to us, whatever the locale says of letters.

    Where Python takes another encoding from it, this process starts over with UTF-8.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(reason: str) -> None:
    line = " ".join(reason.split())
    print(f"litemq: {line}", file=sys.stderr)
