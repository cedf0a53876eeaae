"""The source tree itself: which way imports flow, and who alone may do what."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("actors", "bench", "election", "fs", "transport", "txlog")

# Who may import whom, besides itself. The modules at the root stand for themselves.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "thread_room": {"errors"},
    "config_rules": set(),
    "hooks": set(),
    "late_imports": set(),
    "config": {"config_rules", "errors"},
    "config_machine": {"config_rules", "config", "errors"},
    "log": {"config", "errors", "late_imports"},
    "log_tail": {"log"},
    "txlog": {"config", "errors", "log"},
    "fs": {"txlog", "config", "errors", "log", "late_imports", "thread_room"},
    "transport": {"txlog", "config", "errors", "log", "thread_room"},
    "election": {"txlog", "config", "errors", "log"},
    "actors": {"fs", "transport", "election", "txlog", "config", "errors", "log", "log_tail"},
}
MAY_IMPORT["actors"] |= {"hooks", "config_machine", "thread_room"}
MAY_IMPORT["bench"] = MAY_IMPORT["actors"] | {"actors"}
MAY_IMPORT["cli_common"] = {"config", "errors"}
MAY_IMPORT["cli_diverged"] = MAY_IMPORT["actors"] | {"actors", "cli_common"}
MAY_IMPORT["cli_bench"] = MAY_IMPORT["bench"] | {"bench", "cli_common"}
MAY_IMPORT["cli"] = MAY_IMPORT["bench"] | {"bench", "cli_bench", "cli_common", "cli_diverged"}
ONLY_IN = {
    "pyfuse3": "fs/",
    "zmq": "transport/",
    "consul": "election/consul.py",
    "cloudpickle": "actors/nursery.py",
    "multiprocessing": "actors/nursery.py",  # its queues and connections unpickle
    "pickle": None,
    "marshal": None,
    "shelve": None,
    "dill": None,
}
SOURCES = sorted(
    [*REPOSITORY.glob("*.py")]
    + [path for name in FOLDERS for path in (REPOSITORY / name).rglob("*.py")]
)


def part_of(path: Path) -> str:
    first = path.relative_to(REPOSITORY).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything the file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            yield node.lineno, base
            if base == "litemq":
                yield from ((node.lineno, f"litemq.{alias.name}") for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_when_read_then_they_flow_downward(path: Path) -> None:
    """cli, actors, {fs, transport, election}, txlog, {config, errors}: never up, never sideways."""
    own = part_of(path)
    assert own in MAY_IMPORT, "a new module at the root needs a place in the order"
    for line, name in imports(path):
        if name.startswith("litemq."):
            part = name.split(".")[1]
            assert part == own or part in MAY_IMPORT[own], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_when_they_are_dangerous_then_one_place_has_them(path: Path) -> None:
    """Only fs/ knows FUSE, only transport/ knows ZeroMQ, only actors/nursery.py unpickles."""
    for line, name in imports(path):
        top = name.split(".")[0]
        if top in ONLY_IN:
            place = ONLY_IN[top]
            assert place is not None, f"{path}:{line} imports {name}"
            assert name_of(path).startswith(place), f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_when_read_then_none_unpickles_elsewhere(path: Path) -> None:
    """ZeroMQ's recv_pyobj, or pickle as another module's attribute, are found by name."""
    forbidden = {"recv_pyobj", "send_pyobj", "Unpickler"}
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Attribute):
            assert node.attr not in forbidden, f"{path}:{node.lineno}"
            assert not (node.attr == "pickle" and name_of(path) != "actors/nursery.py"), path


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_module_when_opened_then_it_says_what_it_owns(path: Path) -> None:
    """Every module opens with its purpose, and package files hold nothing else."""
    module = ast.parse(path.read_text(), path)
    assert ast.get_docstring(module)
    if path.name == "__init__.py":
        assert len(module.body) == 1


def project() -> dict[str, object]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_packages_when_listed_then_they_are_the_folders() -> None:
    """What is installed is what there is: a folder not listed would be missing from wheels."""
    listed = project()["tool"]["setuptools"]["packages"]  # type: ignore[index]
    assert sorted(listed) == ["litemq", *(f"litemq.{name}" for name in FOLDERS)]
    for path in SOURCES:
        assert len(path.relative_to(REPOSITORY).parts) <= 2, "a nested package has to be listed"


def test_dependencies_when_listed_then_each_is_bounded_and_has_a_reason() -> None:
    """Every requirement has both bounds, and its line says why."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    requirements = re.findall(
        r'^    "([\w.-]+)([^"]*)",(.*)$', text.partition("[project.scripts]")[0], re.M
    )
    requirements = [each for each in requirements if "::" not in each[0] + each[1]]
    assert len(requirements) > 10
    for name, bounds, comment in requirements:
        assert re.fullmatch(r">=[\d.]+,<[\d.]+", bounds), name
        assert len(comment.partition("#")[2].split()) >= 3, name


def test_tests_when_collected_then_no_package_file_hides_them() -> None:
    """A tests/__init__.py would make the root package swallow them."""
    assert not list((REPOSITORY / "tests").rglob("__init__.py"))


def test_ci_when_run_then_it_runs_make_test_and_nothing_else() -> None:
    """What a user runs is what CI runs."""
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test"
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("script", [".ci/run", "deploy/install.sh", "deploy/check-fuse.sh"])
def test_script_when_parsed_then_it_is_valid(script: str) -> None:
    """Shell scripts have no tests of their own here; at least bash reads them."""
    assert subprocess.run(["bash", "-n", script], cwd=REPOSITORY, check=False).returncode == 0


def commands_of(target: str) -> list[str]:
    """What `make` would run."""
    # These tests run under make themselves, whose variables would change what this one prints.
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and name != "T"
    }
    return subprocess.run(
        ["make", "--dry-run", target],
        cwd=REPOSITORY,
        env=clean,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()


def test_make_when_run_again_then_install_does_nothing_new() -> None:
    """The install target calls the script that compares a stamp, and tests depend on it."""
    printed = commands_of("test")
    assert printed[0] == "deploy/install.sh"
    assert printed[-1].startswith(".venv/bin/pytest -m 'not torture'")


def test_torture_when_run_then_the_tests_of_make_test_run_with_write_back() -> None:
    """All of them, with the same workers; then what is torture's own."""
    tests = [line for line in commands_of("torture") if "pytest" in line]
    assert len(tests) == 2
    assert tests[0] == commands_of("test")[-1].replace("torture'", "torture' --write-back")
    assert tests[1].startswith(".venv/bin/pytest -m torture")
