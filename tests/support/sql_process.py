"""The test's end of sql_server.py: one process, one connection."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, Self

import fastcrc
from leftovers import make_run_directory

import litemq

ANSWER_S = 60.0
_SERVER = Path(__file__).with_name("sql_server.py")
_PACKAGES = str(Path(fastcrc.__file__).parents[1])
#: where this test run's litemq is found, for programs of its own
IMPORT_PATH = str(Path(litemq.__file__).parent.parent) if litemq.__file__ else ""


class SqlError(Exception):
    """What sqlite3 (or the operating system) raised in the process: `kind` is the class's name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class SqlProcess:
    """An application with one connection. Requests may be started now and finished later."""

    #: those that a test has to end; `end_all` does if it forgot, or failed
    alive: ClassVar[list[SqlProcess]] = []

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        timeout_s: float = 10.0,
        uri: bool = False,
        lasting: bool = False,
    ) -> None:
        """`lasting`: it is not the test's, and outlives it."""
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(_SERVER), _PACKAGES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=make_run_directory(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._buffer = b""
        self.pid = self._process.pid
        if not lasting:
            SqlProcess.alive.append(self)
        if path is not None:
            self.open(path, timeout_s=timeout_s, uri=uri)

    # --- requests

    def start(self, do: str, *arguments: Any) -> None:
        """Send a request without waiting for its answer."""
        line = json.dumps([do, [_sent(value) for value in arguments]])
        self._requests.write(line.encode() + b"\n")
        self._requests.flush()

    def finish(self, *, timeout_s: float = ANSWER_S) -> Any:
        """The answer to the oldest open request; SqlError, or AssertionError if none comes."""
        answer = json.loads(self._line(timeout_s))
        if "error" in answer:
            raise SqlError(answer["error"], answer["message"])
        return _received(answer["ok"])

    def ask(self, do: str, *arguments: Any) -> Any:
        self.start(do, *arguments)
        return self.finish()

    def _line(self, timeout_s: float) -> bytes:
        deadline_s = time.monotonic() + timeout_s
        answers = select.poll()
        answers.register(self._answers, select.POLLIN)
        while b"\n" not in self._buffer:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not answers.poll(left_s * 1000):
                raise AssertionError(f"no answer within {timeout_s:g} s from process {self.pid}")
            data = os.read(self._answers.fileno(), 1 << 20)
            if not data:
                raise AssertionError(f"process {self.pid} ended: {self._process.wait()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    # --- SQL

    def open(self, path: Path | str, *, timeout_s: float = 10.0, uri: bool = False) -> None:
        self.ask("open", str(path), timeout_s, uri)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.ask("sql", statement, list(values))]

    def one(self, statement: str, *values: Any) -> Any:
        """The only column of the only row."""
        ((value,),) = self.sql(statement, *values)
        return value

    def script(self, *statements: str) -> None:
        for statement in statements:
            self.sql(statement)

    def disconnect(self) -> None:
        """Close the connection; the process lives on."""
        self.ask("close")

    # --- the end

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        if self in SqlProcess.alive:
            SqlProcess.alive.remove(self)
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._answers.close()

    @classmethod
    def end_all(cls) -> None:
        """End what a test left running."""
        for process in list(cls.alive):
            process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sent(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return [_sent(each) for each in value] if isinstance(value, list) else value


def _received(value: Any) -> Any:
    if isinstance(value, dict) and list(value) == ["hex"]:
        return bytes.fromhex(value["hex"])
    return [_received(each) for each in value] if isinstance(value, list) else value
