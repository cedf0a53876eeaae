"""The node's log: one line per event, whatever happens to the file, the disk or the terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from litemq import log
from litemq.config import LogConfig
from litemq.log_tail import Filter, tail


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def configure(data_dir: Path, **keys: Any) -> Path:
    log.configure(LogConfig(**keys), data_dir, "a", "tester", stderr=False)
    return log.log_path(data_dir)


def records(path: Path) -> list[dict[str, Any]]:
    return list(tail(path, follow=False))


def test_line_when_logged_then_it_carries_who_and_when(tmp_path: Path) -> None:
    """Every line has time, level, event, node, actor and pid before its own keys."""
    path = configure(tmp_path)
    log.get(db="x.db").info("transaction logged", txid=7)
    [line] = path.read_bytes().splitlines()
    record = json.loads(line)
    assert list(record)[:6] == ["time", "level", "event", "node", "actor", "pid"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "info",
        "event": "transaction logged",
        "node": "a",
        "actor": "tester",
        "pid": os.getpid(),
        "db": "x.db",
        "txid": 7,
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_level_when_set_then_lesser_lines_are_left_out(tmp_path: Path) -> None:
    """The configured level is the least that is kept, for loggers made before it was set, too."""
    early = log.get()
    path = configure(tmp_path, level="warning")
    early.info("no")
    early.warning("yes")
    assert [record["event"] for record in records(path)] == ["yes"]


def test_exception_when_logged_then_its_traceback_is_in_the_line(tmp_path: Path) -> None:
    """An unexpected error is one line as well."""
    path = configure(tmp_path)
    try:
        raise OSError(28, "no space")
    except OSError:
        log.get().exception("actor failed")
    [record] = records(path)
    assert record["level"] == "error"
    assert "no space" in record["exception"]


def test_library_when_it_warns_through_logging_then_the_line_is_in_the_log(tmp_path: Path) -> None:
    """Warnings of libraries that know only the standard library's logging are not lost."""
    path = configure(tmp_path)
    configure(tmp_path)
    logging.getLogger("pyfuse3").warning("100%s odd", "%")
    assert [(r["event"], r["source"]) for r in records(path)] == [("100% odd", "pyfuse3")]


VALUES = st.text(st.characters()) | st.binary() | st.floats() | st.sets(st.integers())
KEYS = st.text() | st.integers() | st.none() | st.tuples(st.integers())


@given(st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES) | st.builds(object)))
def test_json_when_given_any_values_then_it_is_one_readable_line(fields: dict[Any, Any]) -> None:
    """Odd keys, bytes, sets, broken file names: always one line of JSON."""
    line = log.as_json(fields)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    json.loads(line)


def test_json_when_a_value_holds_itself_then_it_is_one_readable_line() -> None:
    """A cycle does not end the process that logs it."""
    cycle: list[Any] = []
    cycle.append(cycle)
    assert json.loads(log.as_json({"event": "x", "value": cycle}))["event"] == "x"


def write_lines(data_dir: Path, who: int, count: int) -> None:
    log.configure(LogConfig(max_bytes=4096, keep=100), data_dir, "a", f"w{who}", stderr=False)
    for number in range(count):
        log.get().info("line", number=number)


def test_rotation_when_several_processes_write_then_no_line_is_lost_or_torn(tmp_path: Path) -> None:
    """Four writers and a small limit: every line is in one of the files, in each writer's order."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_lines, args=(tmp_path, who, 500)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    path = log.log_path(tmp_path)
    assert log.kept_path(path, 10).exists()
    found = records(path)
    for who in range(4):
        own = [record["number"] for record in found if record["actor"] == f"w{who}"]
        assert sorted(own) == list(range(500))


@pytest.mark.parametrize("keep", [0, 2])
def test_rotation_when_files_are_too_many_then_the_oldest_go(tmp_path: Path, keep: int) -> None:
    """No more than `keep` files are set aside."""
    path = configure(tmp_path, max_bytes=4096, keep=keep)
    for number in range(200):
        log.get().info("line", number=number)
    names = {kept.name for kept in path.parent.iterdir()} - {"node.jsonl.lock"}
    assert names == {"node.jsonl"} | {f"node.jsonl.{number + 1}" for number in range(keep)}
    assert all(kept.stat().st_size <= 4096 for kept in path.parent.iterdir())
    assert records(path)[-1]["number"] == 199


def test_log_when_its_file_is_removed_then_a_new_one_is_begun(tmp_path: Path) -> None:
    """Deleting a log by hand does not silence a running node."""
    path = configure(tmp_path)
    log.get().info("one")
    path.unlink()
    log.get().info("two")
    assert [record["event"] for record in records(path)] == ["two"]


def test_log_when_the_disk_is_full_then_lines_are_counted_and_writing_goes_on(
    tmp_path: Path,
) -> None:
    """A full disk costs lines, and the log says how many as soon as it can."""
    path = configure(tmp_path)
    log.get().info("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        log.get().info("lost and torn")
        log.get().info("lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    log.get().info("after")
    found = records(path)
    assert [record["event"] for record in found] == [
        "before",
        "unreadable log line",
        "log lines lost",
        "after",
    ]
    assert found[2]["count"] == 2


def test_log_when_its_directory_cannot_be_made_then_logging_goes_on(tmp_path: Path) -> None:
    """A data directory that can't be written is no reason to die in a log call."""
    (tmp_path / "log").touch()
    configure(tmp_path)
    log.get().info("nowhere")
    (tmp_path / "log").unlink()
    log.get().info("somewhere")
    assert [r["event"] for r in records(log.log_path(tmp_path))] == ["log lines lost", "somewhere"]


CHATTER = """
import sys
import tempfile
from pathlib import Path
from litemq import log
from litemq.config import LogConfig
log.configure(LogConfig(), Path(sys.argv[1]), "a", "chatter", stderr=True)
for number in range(2000):
    log.get().info("line", number=number, filler="x" * 100)
print("done", flush=True)
sys.stdin.read()
log.get().info("last")
"""


def test_stderr_when_nobody_reads_it_then_the_process_goes_on(tmp_path: Path) -> None:
    """A full pipe costs whole lines on stderr, never a stop; the log file has all of them."""
    with subprocess.Popen(
        [sys.executable, "-c", CHATTER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"done\n"
        held = os.read(process.stderr.fileno(), 1 << 20)
        rest = process.communicate(b"")[1]
    lines = [json.loads(line) for line in (held + rest).splitlines()]
    assert 0 < len(lines) < 2000
    assert lines[-2]["event"] == "log lines lost"
    assert lines[-2]["count"] + len(lines) == 2002
    assert lines[-1]["event"] == "last"
    assert len(records(log.log_path(tmp_path))) == 2001


def test_pretty_when_rendered_then_it_is_one_line_with_all_keys() -> None:
    """What people read holds what the JSON holds."""
    fields = {"time": "T", "level": "warning", "event": "gap found", "node": "a", "txid": 7}
    line = log.as_pretty(fields, colors=False)
    assert "\n" not in line
    for part in ("T", "warning", "gap found", "node=a", "txid=7"):
        assert part in line
    assert "\x1b" not in line
    assert "\x1b" in log.as_pretty(fields, colors=True)


def test_tail_when_filtered_then_only_the_wanted_lines_come(tmp_path: Path) -> None:
    """Actor, database and least level, alone and together."""
    path = configure(tmp_path, level="debug")
    log.get().debug("a", db="x")
    log.get().warning("b", db="x")
    log.get().error("c", db="y")
    log.get(actor="other").error("d", db="x")

    def events(wanted: Filter) -> str:
        return "".join(record["event"] for record in tail(path, follow=False, wanted=wanted))

    assert events(Filter()) == "abcd"
    assert events(Filter(level="warning")) == "bcd"
    assert events(Filter(database="x")) == "abd"
    assert events(Filter(actor="tester", database="x", level="warning")) == "b"


def test_tail_when_there_is_no_log_then_nothing_comes(tmp_path: Path) -> None:
    """Reading a log that does not exist yet is no error."""
    assert records(log.log_path(tmp_path)) == []


@pytest.mark.parametrize("keep", [0, 1, 5])
def test_tail_when_following_through_files_set_aside_then_each_line_comes_once(
    tmp_path: Path, keep: int
) -> None:
    """A follower that keeps up sees every line once, in order, whatever is set aside or removed."""
    path = log.log_path(tmp_path)
    written = iter(range(300))
    seen: list[int] = []
    configure(tmp_path, max_bytes=4096, keep=keep)

    def write_some(_seconds: float) -> None:
        for _ in range(7):  # fewer than a file holds: what is set aside is at most one file ahead
            number = next(written, None)
            if number is None:
                raise StopFollowingError
            log.get().info("line", number=number)

    with contextlib.suppress(StopFollowingError):
        for record in tail(path, follow=True, pause=write_some):
            seen.append(record["number"])  # noqa: PERF401 - the exception must not lose the list
    assert seen == list(range(len(seen)))
    assert len(seen) >= 290


class StopFollowingError(Exception):
    pass


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 60))
def test_tail_when_a_line_is_half_written_then_it_waits_for_the_rest(
    tmp_path: Path, cut: int
) -> None:
    """A follower never shows half a line, wherever the writer stopped."""
    path = tmp_path / "node.jsonl"
    line = log.as_json({"level": "info", "event": "whole", "value": "x" * 40})
    path.write_bytes(line[:cut])
    paused = []

    def write_rest(_seconds: float) -> None:
        if paused:
            raise StopFollowingError
        paused.append(True)
        with path.open("ab") as file:
            file.write(line[cut:])

    seen = []
    with contextlib.suppress(StopFollowingError):
        for record in tail(path, follow=True, pause=write_rest):
            seen.append(record["event"])  # noqa: PERF401 - the exception must not lose the list
    assert seen == ["whole"]


@given(st.binary())
def test_tail_when_the_file_holds_anything_then_it_is_read_to_the_end(content: bytes) -> None:
    """Damage in a log is shown as such and hides nothing that comes after it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "node.jsonl"
        path.write_bytes(content + b"\n" + log.as_json({"event": "after"}))
        found = records(path)
    assert found[-1] == {"event": "after"}
    assert len(found) == 1 + sum(bool(line.strip()) for line in content.split(b"\n"))
