"""Tools that copy a database and end: each is given one, makes another, and is right or fails."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from capabilities import require_program

RECOVERING_SHELL = Path(__file__).parents[2] / ".venv" / "sqlite-suite/source/sqlite3/sqlite3"
#: every tool of these tests ends within this
TIMEOUT_S = 120.0
_STEPS = """
import sqlite3, sys
source, target = sqlite3.connect(sys.argv[1], timeout=10), sqlite3.connect(sys.argv[2])
source.backup(target, pages=int(sys.argv[3]), sleep=0.001)
"""


class ToolError(Exception):
    """It said that it failed."""


def run(*words: str | Path, text: str = "", directory: Path | None = None) -> str:
    """What the program printed. Raises ToolError."""
    done = subprocess.run(
        [str(word) for word in words],
        input=text,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ToolError(f"{words[0]}: {done.returncode}: {(done.stderr or done.stdout)[-600:]}")
    return done.stdout


def shell(database: Path, *commands: str) -> str:
    """Debian's `sqlite3`."""
    return run(require_program("sqlite3"), "-batch", "-bail", database, *commands)


def dump(database: Path, copy: Path) -> None:
    """`.dump`, which writes "COMMIT;" at its end only if all went well."""
    script = shell(database, ".timeout 10000", ".dump")
    if not script.endswith("COMMIT;\n"):
        raise ToolError(script[-200:])
    run(require_program("sqlite3"), "-batch", "-bail", copy, text=script)


def vacuum_into(database: Path, copy: Path) -> None:
    shell(database, ".timeout 10000", f"VACUUM INTO '{copy}'")


def shell_backup(database: Path, copy: Path) -> None:
    """`.backup`."""
    shell(database, ".timeout 10000", f".backup '{copy}'")


def backup_steps(database: Path, copy: Path) -> None:
    """The backup API, some pages a step; it starts over when another process writes."""
    run(sys.executable, "-c", _STEPS, database, copy, "200")


def recover(database: Path, copy: Path) -> None:
    """`.recover`, which reads page by page. Debian's shell is built without it."""
    if not RECOVERING_SHELL.exists():
        require_program("the programs of `make programs`")
    script = run(RECOVERING_SHELL, "-batch", "-bail", database, ".timeout 10000", ".recover")
    run(RECOVERING_SHELL, "-batch", "-bail", copy, text=script)


COPIERS: dict[str, Callable[[Path, Path], None]] = {
    ".dump": dump,
    "VACUUM INTO": vacuum_into,
    ".backup": shell_backup,
    "backup in steps": backup_steps,
    ".recover": recover,
}


def marks(database: Path) -> list[str]:
    """Of all rows of a sound database, in their order."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], database
        return [mark for (mark,) in db.execute("SELECT mark FROM entry ORDER BY id")]
