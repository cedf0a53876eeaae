"""The test's end of a program of tests/programs: one process, the same dialogue for all of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from capabilities import require_program
from leftovers import make_run_directory
from ports import free_port
from program_table import INSTALLED, PYTHON, SCRIPTS, Program
from waiting import eventually

START_S = 60.0
ANSWER_S = 60.0


class ProgramError(Exception):
    """What the program said instead of doing it."""


class ProgramProcess:
    """A program at work on one database; `restart` gives it a new process."""

    def __init__(self, program: Program, database: Path) -> None:
        self.program = program
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.start()

    # --- life

    def start(self) -> None:
        program = self.program
        self._port = free_port() if program.over_http else 0
        words = {
            "database": str(self._database), "setup": program.setup, "port": str(self._port),
            "scripts": str(SCRIPTS),
        }  # fmt: skip
        command = [word.format(**words) for word in program.command]
        command[0] = _interpreter(command[0])
        with (self._database.parent.parent / "program-stderr").open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=stderr if program.over_http else subprocess.PIPE,
                stderr=stderr,
                cwd=make_run_directory(),
                env=os.environ
                | {
                    "DATABASE": str(self._database),
                    "SETUP": program.setup,
                    "NODE_PATH": str(INSTALLED / "node_modules"),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
            )
        if program.over_http:
            eventually(self._listens, timeout_s=START_S, what=f"{program.id} listens")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # gunicorn's worker goes with gunicorn, a moment later
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    # --- requests; each raises ProgramError

    def write(self, mark: str) -> None:
        self._ask("write", mark)

    def read(self) -> tuple[int, str]:
        """How many rows there are, and the newest."""
        count, newest = self._ask("read")
        return count, newest or ""

    @property
    def can_renew(self) -> bool:
        return not self.program.over_http

    def renew(self) -> None:
        self._ask("renew")

    # --- inside

    def _ask(self, word: str, mark: str = "") -> Any:
        answer = self._over_http(word, mark) if self._port else self._in_lines(word, mark)
        if "error" in answer:
            raise ProgramError(answer["error"])
        return answer["ok"]

    def _in_lines(self, word: str, mark: str) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{word} {mark}\n".encode())
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, f"{self.program.id} ended with {process.wait()}"
        found: dict[str, Any] = json.loads(line)
        return found

    def _over_http(self, word: str, mark: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/{word}" + (f"/{quote(mark)}" if mark else ""),
            method="POST" if word == "write" else "GET",
            data=b"" if word == "write" else None,
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            with error:
                return {"error": f"{error.code}: {error.read()[-300:].decode(errors='replace')}"}

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.program.id} ended by itself"
        try:
            self._over_http("read", "")
        except OSError:
            return False
        return True


def _interpreter(name: str) -> str:
    """What runs the program; a test without it is skipped."""
    if name == "python":
        return sys.executable
    if name == str(PYTHON) and not PYTHON.exists():
        require_program("the programs of `make programs`")
    if name == "node" and not (INSTALLED / "node_modules").exists():
        require_program("the programs of `make programs`")
    return name if Path(name).is_absolute() else shutil.which(name) or require_program(name)
