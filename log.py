"""The node's structured log: one line per event, from every actor into one file, and to stderr.

Owns `DATA-DIR/log/node.jsonl` and the files set aside beside it (`.1` is the youngest). A line is
written by one append and carries time, level, event, node, actor and pid. Logging never raises,
never waits for another process, and never ends its own: what can't be written is counted, and the
count is logged as soon as something can be.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import select
import sys
import threading
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from litemq.config import LogConfig
from litemq.late_imports import late

with late("asyncio"):
    import structlog

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

# What poll(2) calls writable has room for PIPE_BUF bytes (pipe(7)); a longer write could block.
_STDERR_CHUNK_BYTES: Final = select.PIPE_BUF
_STDERR_PATIENCE_MS: Final = 100


def log_path(data_dir: Path) -> Path:
    return data_dir / "log" / "node.jsonl"


def configure(settings: LogConfig, data_dir: Path, node: str, actor: str, *, stderr: bool) -> None:
    """Send this process's events, and warnings that came by `logging`, to the node's log.

    Called once at the start of each actor, after any fork. Creates the directory in `data_dir`.
    """
    sinks: list[_File | _Stderr] = [_File(log_path(data_dir), settings.max_bytes, settings.keep)]
    if stderr:
        sinks.append(_Stderr(pretty=sys.stderr.isatty()))
    identity = {"node": node, "actor": actor, "pid": os.getpid()}
    structlog.configure(
        processors=[_complete(identity), structlog.processors.format_exc_info, _as_fields],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.level]),
        logger_factory=lambda *_: _Fanout(sinks),
        # Off, so that a logger made at import time follows the configuration.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _FromLogging)]:
        root.removeHandler(handler)
    root.addHandler(_FromLogging(logging.WARNING))


def get(**bound: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger; what is bound stands in each of its lines."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(**bound))


def strange_message(reason: str, count: int) -> None:
    """Tell that a socket of this node dropped `count` messages that are none of ours."""
    get().warning("dropped a strange message", reason=reason, count=count)


def as_json(fields: Mapping[str, Any]) -> bytes:
    """One JSON line, whatever the values are: what JSON has no form for is written as its repr."""
    try:
        text = _dumps(fields)
    except (TypeError, ValueError, RecursionError):  # a key that is no string, NaN, a cycle
        text = _dumps({str(key): _plain(value) for key, value in fields.items()})
    # File names need not be UTF-8; their surrogates become \udcXX, which is JSON's own escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _dumps(fields: Mapping[str, Any]) -> str:
    return json.dumps(
        fields, ensure_ascii=False, allow_nan=False, default=repr, separators=(",", ":")
    )


def _plain(value: object) -> str | int:
    return value if isinstance(value, str | int) else repr(value)


def as_pretty(fields: Mapping[str, Any], *, colors: bool) -> str:
    """One line for people (more with a traceback), without a newline at its end."""
    renderer = _RENDERERS[colors]
    event = {key: value for key, value in fields.items() if key not in ("time", "level", "event")}
    event = {
        "timestamp": str(fields.get("time", "")),
        "level": str(fields.get("level", "info")),
        "event": str(fields.get("event", "")),
        **event,
    }
    return str(renderer(None, "", event))


_RENDERERS: Final = {
    colors: structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False)
    for colors in (False, True)
}


def _complete(identity: Mapping[str, Any]) -> structlog.typing.Processor:
    def complete(
        _logger: Any, level: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"time": now, "level": level, "event": event.pop("event", ""), **identity}
        # An event's own word wins: the supervisor may speak of another actor.
        return head | dict(event)

    return complete


def _as_fields(
    _logger: Any, _level: str, event: MutableMapping[str, Any]
) -> tuple[tuple[MutableMapping[str, Any]], dict[str, Any]]:
    return (event,), {}


class _Fanout:
    """What structlog takes for a logger: one method per level, all alike."""

    def __init__(self, sinks: list[_File | _Stderr]) -> None:
        self._sinks = sinks

    def write(self, fields: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(fields)

    debug = info = warning = error = critical = write


class _FromLogging(logging.Handler):
    """Warnings of libraries that use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        get(source=record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)


class _File:
    """Appends lines to a file that several processes append to and set aside."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1
        self._lost = 0
        self._torn = False
        self._mutex = threading.Lock()

    def write(self, fields: Mapping[str, Any]) -> None:
        line = as_json(fields)
        with self._mutex:
            try:
                self._reopen_if_moved()
                if self._lost:
                    note = {
                        **fields,
                        "level": "warning",
                        "event": "log lines lost",
                        "count": self._lost,
                    }
                    self._append(as_json(note))
                    self._lost = 0
                self._append(line)
            except OSError:
                self._lost += 1

    def _append(self, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        size = os.fstat(self._fd).st_size
        if size and size + len(line) > self._max_bytes:
            self._set_aside()
        written = os.write(self._fd, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, "disk full")

    def _reopen_if_moved(self) -> None:
        if self._fd >= 0:
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                    return
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd = -1
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)

    def _set_aside(self) -> None:
        """node.jsonl becomes .1, .1 becomes .2, and so on.

        Whoever finds another process at it, or fails, goes on with the file it has.
        """
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the look at the size and the lock another process may have done it.
            if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                for number in range(self._keep, 0, -1):
                    younger = kept_path(self._path, number - 1)
                    if younger.exists():
                        younger.replace(kept_path(self._path, number))
                if self._keep == 0:
                    self._path.unlink()
        except OSError:
            return
        finally:
            os.close(lock)
        self._reopen_if_moved()


class _Stderr:
    """Lines on stderr; if nobody reads them (a full pipe, a stopped tty) that costs no time."""

    def __init__(self, *, pretty: bool) -> None:
        self._pretty = pretty
        self._colors = pretty and "NO_COLOR" not in os.environ
        self._fd = sys.stderr.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._patience_ms = _STDERR_PATIENCE_MS
        self._lost = 0

    def write(self, fields: Mapping[str, Any]) -> None:
        if self._lost and self._put(
            self._render({**fields, "event": "log lines lost", "count": self._lost})
        ):
            self._lost = 0
        if not self._put(self._render(fields)):
            self._lost += 1

    def _render(self, fields: Mapping[str, Any]) -> bytes:
        if not self._pretty:
            return as_json(fields)
        return (as_pretty(fields, colors=self._colors) + "\n").encode("utf-8", "backslashreplace")

    def _put(self, line: bytes) -> bool:
        for start in range(0, len(line), _STDERR_CHUNK_BYTES):
            ready = self._poll.poll(self._patience_ms)
            if not ready or not ready[0][1] & select.POLLOUT:
                self._patience_ms = 0
                return False
            try:
                os.write(self._fd, line[start : start + _STDERR_CHUNK_BYTES])
            except OSError:
                return False
        self._patience_ms = _STDERR_PATIENCE_MS
        return True


def kept_path(path: Path, number: int) -> Path:
    """The file set aside `number` times; 0 is the one being written."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")
