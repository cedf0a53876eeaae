"""The command line without a node: help, mistakes, exit codes, an old log."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, litemq, refused

from litemq.cli import litemq as group
from litemq.cli_common import table
from litemq.cli_diverged import diverged

REPOSITORY = Path(__file__).parents[1]
COMMANDS = sorted(group.commands)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node that has never run."""
    path = tmp_path / "node.toml"
    path.write_text(
        f"""
[node]
name = "quiet"
data-dir = "{tmp_path}/data"
[mount]
path = "{tmp_path}/mount"
[stream]
listen = "tcp://127.0.0.1:7100"
[election]
primary = "tcp://127.0.0.1:7100"
"""
    )
    return path


def test_commands_when_listed_then_they_are_those_of_the_contract() -> None:
    """What a user types is a contract: add to it, don't rename it."""
    contract = {"up", "status", "tail", "export", "import", "verify", "bench", "demo", "version"}
    assert contract <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_when_asked_for_then_it_has_an_example(name: str) -> None:
    """Every command explains itself on stdout, with examples that call it."""
    done = litemq(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: litemq {name} ")
    if name != "version":
        assert f"  litemq {name}" in done.out.partition("Examples:")[2]
    assert max(map(len, done.out.splitlines())) <= 100


@pytest.mark.parametrize("name", sorted(diverged.commands))
def test_help_of_a_group_s_command_when_asked_for_then_it_has_an_example(name: str) -> None:
    """As every command."""
    done = litemq("diverged", name, "--help")
    assert done.code == 0
    assert f"  litemq diverged {name}" in done.out.partition("Examples:")[2]
    assert max(map(len, done.out.splitlines())) <= 100


def test_program_when_called_alone_then_it_shows_its_help() -> None:
    """No arguments: the list of commands, not an error."""
    done = litemq()
    assert done.code == 0
    assert all(f"\n  {name} " in done.out for name in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["status"],
        ["status", "--config", "F", "--format", "xml"],
        ["export", "--config", "F", "only-a-name"],
        ["up", "--nonsense"],
        ["demo", "--seconds", "0"],
        ["bench", "--rounds", "none"],
    ],
    ids=" ".join,
)
def test_usage_when_wrong_then_one_line_and_exit_code_2(words: list[str]) -> None:
    """A typing mistake is one line that names the help to read."""
    refused(litemq(*words), 2, "--help")


@pytest.mark.parametrize("name", ["up", "status", "tail", "verify"])
def test_configuration_when_wrong_then_the_line_names_file_and_key(name: str, config: Path) -> None:
    """A configuration mistake stops every command alike, before anything is done."""
    config.write_text(config.read_text().replace("[mount]", "[mount]\nfusee = true"))
    refused(litemq(name, "--config", config), 2, str(config), "[mount]", "fusee", '"fuse"')
    assert not (config.parent / "data").exists()


@pytest.mark.parametrize(
    "words",
    [["status"], ["verify"], ["export", "a.db", "copy.db"], ["import", "a.db", "copy.db"]],
    ids=" ".join,
)
def test_node_when_it_does_not_run_then_exit_code_4(words: list[str], config: Path) -> None:
    """Whoever needs the node says that it is not there and how to start it."""
    name, *rest = words
    refused(litemq(name, "--config", config, *rest), 4, "quiet", "litemq up --config")
    assert not (config.parent / "data").exists()


def test_version_when_printed_then_it_names_what_matters() -> None:
    """The versions a report of a defect needs."""
    done = litemq("version")
    assert done.code == 0
    assert re.match(r"litemq \S+", done.out)
    assert "sqlean.py 3." in done.out


def test_tail_when_the_node_has_never_run_then_it_says_so(config: Path) -> None:
    """Nothing to read is no silent success."""
    refused(litemq("tail", "--config", config), 1, "has never run")


def test_tail_when_filtered_then_only_those_lines_come_as_json(config: Path) -> None:
    """Into a pipe go JSON lines, filtered by actor, database and level."""
    log = config.parent / "data" / "log" / "node.jsonl"
    log.parent.mkdir(parents=True)
    lines = [
        {"time": "t1", "level": "info", "event": "one", "actor": "log_writer", "db": "a.db"},
        {"time": "t2", "level": "warning", "event": "two", "actor": "log_writer", "db": "b.db"},
        {"time": "t3", "level": "error", "event": "three", "actor": "supervisor"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def events(*options: str) -> list[str]:
        done = litemq("tail", "--config", config, *options)
        assert done.code == 0
        return [json.loads(line)["event"] for line in done.out.splitlines()]

    assert events() == ["one", "two", "three"]
    assert events("--level", "warning") == ["two", "three"]
    assert events("--actor", "log_writer", "--db", "b.db") == ["two"]


def test_tail_when_its_reader_leaves_then_it_ends_quietly(config: Path) -> None:
    """`litemq tail | head` is no error."""
    log = config.parent / "data" / "log" / "node.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"event":"x","level":"info"}\n' * 50_000)
    with subprocess.Popen(
        [sys.executable, "-m", "litemq", "tail", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


def test_table_when_printed_then_columns_line_up() -> None:
    """Text to the left, numbers to the right, and something to see when there is nothing."""
    assert list(table(["NAME", "N"], [["a", "1"], ["long", "200"]], right={1})) == [
        "NAME    N",
        "a       1",
        "long  200",
    ]
    assert list(table(["NAME", "N"], [], right={1})) == ["NAME    N", "(none)"]


def test_reference_when_generated_anew_then_it_is_the_one_in_docs() -> None:
    """docs/cli.md holds what `--help` says; `make docs` writes it."""
    path = REPOSITORY / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_docs", path)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.command_help() in (REPOSITORY / "docs" / "cli.md").read_text()
