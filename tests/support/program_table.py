"""Which programs are run on real nodes, and what each does when a process dies or the role changes.

`test_programs.py` runs every row and fails when a program does otherwise; docs/programs.md is
written from the same rows.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "tests" / "programs"
#: deploy/programs.sh puts it there
INSTALLED = REPOSITORY / ".venv" / "programs"
PYTHON = INSTALLED / "python" / "bin" / "python"


class Recovery(Enum):
    """What has to be done so that a running process works again."""

    ITSELF = "goes on"
    CONNECTION = "new connection"
    RESTART = "restart"


ITSELF, CONNECTION, RESTART = Recovery.ITSELF, Recovery.CONNECTION, Recovery.RESTART


@dataclass(frozen=True, slots=True)
class Recoveries:
    """Of one program in one set-up."""

    #: reads and writes, after the FUSE actor of its node has died
    actor_died: Recovery
    #: writes, after its node became the primary, by a handover or a failover
    promoted: Recovery
    #: reads, after its node has stopped being the primary, by a handover
    deposed: Recovery
    #: reads, after its node was killed and came back as a replica
    returned: Recovery


#: nothing is kept open from one request to the next
PER_REQUEST = Recoveries(ITSELF, ITSELF, ITSELF, ITSELF)
#: a connection is kept, and the program can make it anew
KEPT = Recoveries(CONNECTION, CONNECTION, ITSELF, CONNECTION)
#: a connection is kept, and only the end of the process ends it
HELD = Recoveries(RESTART, RESTART, ITSELF, RESTART)


@dataclass(frozen=True, slots=True)
class Program:
    """A program in one set-up. `command` may hold {database}, {setup}, {port} and {scripts}."""

    name: str
    setup: str
    #: for people
    described: str
    command: tuple[str, ...]
    recoveries: Recoveries
    #: what to set so that it goes on by itself; "" where it does
    advice: str = ""
    over_http: bool = False
    #: the package that its version is of; "" for what comes with Python or Debian
    package: str = ""
    journal_mode: str = "wal"
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        return f"{self.name}-{self.setup}".replace(" ", "-").lower()

    @property
    def version(self) -> str:
        """As the files say that deploy/programs.sh installs from; "" for Debian's."""
        if not self.package:
            return ""
        pinned = re.search(
            rf"^{re.escape(self.package)}==(\S+)$",
            (SCRIPTS / "requirements.txt").read_text(),
            re.MULTILINE,
        )
        if pinned:
            return pinned[1]
        packages = json.loads((SCRIPTS / "package.json").read_text())["dependencies"]
        return str(packages[self.package])


def _python(script: str) -> tuple[str, ...]:
    return (str(PYTHON), f"{{scripts}}/{script}", "{database}", "{setup}")


def _node(script: str) -> tuple[str, ...]:
    return ("node", f"{{scripts}}/{script}", "{database}", "{setup}")


_GUNICORN = (
    str(PYTHON), "-m", "gunicorn", "--chdir", "{scripts}", "--bind", "127.0.0.1:{port}",
    "--workers", "1", "django_site:application",
)  # fmt: skip
_DATASETTE = (
    str(PYTHON), "-m", "datasette", "serve", "{database}", "--port", "{port}",
    "--plugins-dir", "{scripts}/datasette_plugins",
)  # fmt: skip
_PHP = ("php", "-S", "127.0.0.1:{port}", "{scripts}/pdo.php")

PROGRAMS = (
    Program(
        "Python's sqlite3", "kept", "a connection that is kept",
        ("python", "{scripts}/stdlib.py", "{database}", "{setup}"), KEPT,
        advice="close and connect anew after `sqlite3.OperationalError`",
    ),
    Program(
        "Python's sqlite3", "kept-delete", "the same, `journal_mode=DELETE`",
        ("python", "{scripts}/stdlib.py", "{database}", "{setup}"), KEPT,
        advice="the same", journal_mode="delete",
    ),
    Program(
        "SQLAlchemy", "queue-pool", "the engine as it is by default",
        _python("sqlalchemy_orm.py"), KEPT, package="SQLAlchemy",
        advice="see [SQLAlchemy](#sqlalchemy)",
    ),
    Program(
        "SQLAlchemy", "pre-ping", "`pool_pre_ping=True`",
        _python("sqlalchemy_orm.py"), KEPT, package="SQLAlchemy",
        advice="the ping is `SELECT 1`, which reads no file: it has no effect with SQLite",
    ),
    Program(
        "SQLAlchemy", "null-pool", "`poolclass=NullPool`",
        _python("sqlalchemy_orm.py"), PER_REQUEST, package="SQLAlchemy",
    ),
    Program(
        "SQLAlchemy", "invalidating", "a `handle_error` listener that throws connections away",
        _python("sqlalchemy_orm.py"), PER_REQUEST, package="SQLAlchemy",
    ),
    Program(
        "Django", "per-request", "`CONN_MAX_AGE = 0`, the default, under gunicorn",
        _GUNICORN, PER_REQUEST, package="Django", over_http=True,
    ),
    Program(
        "Django", "lasting", "`CONN_MAX_AGE = None`",
        _GUNICORN, HELD, package="Django", over_http=True,
        advice="leave `CONN_MAX_AGE` at 0",
    ),
    Program(
        "Django", "checked", "`CONN_MAX_AGE = None`, `CONN_HEALTH_CHECKS = True`",
        _GUNICORN, HELD, package="Django", over_http=True,
        advice="the check of SQLite's backend always passes: leave `CONN_MAX_AGE` at 0",
    ),
    Program(
        "Peewee", "connected", "one `SqliteDatabase`, connected once",
        _python("peewee_models.py"), KEPT, package="peewee",
        advice="`with database.connection_context()` around each request",
    ),
    Program(
        "Peewee", "per-request", "`connection_context()` around each request",
        _python("peewee_models.py"), PER_REQUEST, package="peewee",
    ),
    Program(
        "Datasette", "served", "`datasette serve`, writes by a plugin's `execute_write`",
        _DATASETTE, Recoveries(RESTART, ITSELF, ITSELF, RESTART), package="datasette",
        over_http=True,
        advice="it connects for writes at the first of them, and then keeps that, too",
    ),
    Program(
        "sqlite-utils", "library", "one `Database` that is kept",
        _python("sqlite_utils_tables.py"), KEPT, package="sqlite-utils",
        advice="a new `Database` after an error",
    ),
    Program(
        "sqlite-utils", "command", "the command `sqlite-utils`",
        _python("sqlite_utils_tables.py"), PER_REQUEST, package="sqlite-utils",
    ),
    Program(
        "better-sqlite3", "kept", "one `Database` that is kept",
        _node("better_sqlite3.js"), KEPT, package="better-sqlite3",
        advice="a new `Database` after `SQLITE_IOERR` or `SQLITE_READONLY`",
    ),
    Program(
        "sql.js", "rename", "the file read before each change, a new one renamed over it after it",
        _node("sql_js.js"), PER_REQUEST, package="sql.js",
    ),
    Program(
        "sql.js", "overwrite", "the file read before each change, and overwritten after it",
        _node("sql_js.js"), PER_REQUEST, package="sql.js",
    ),
    Program(
        "PHP PDO", "per-request", "a connection for each request",
        _PHP, PER_REQUEST, over_http=True,
    ),
    Program(
        "PHP PDO", "persistent", "`PDO::ATTR_PERSISTENT`",
        _PHP, HELD, over_http=True,
        advice="leave `ATTR_PERSISTENT` off",
    ),
    Program(
        "APSW", "search", "FTS5 and R-Tree, a connection that is kept",
        _python("apsw_features.py"), KEPT, package="apsw",
        advice="close and connect anew after `apsw.IOError` or `apsw.ReadOnlyError`",
    ),
    Program(
        "APSW", "blobs", "blobs written in place",
        _python("apsw_features.py"), KEPT, package="apsw", advice="the same",
    ),
    Program(
        "APSW", "sessions", "changes recorded by sessions",
        _python("apsw_features.py"), KEPT, package="apsw", advice="the same",
    ),
)  # fmt: skip
