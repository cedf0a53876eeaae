"""The application's command without a node: real processes, driven by a loop of the test's own."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from leftovers import has_ended
from structlog.testing import capture_logs
from waiting import eventually

from litemq.actors import app_command, process_limits
from litemq.actors.app_command import AppCommand
from litemq.actors.reactor import Reactor

#: says on which lines it was started, signalled, and, if it heeds SIGTERM, told to end
SCRIPT = """
import os, pathlib, signal, subprocess, sys, time
def tell(word):
    with open(sys.argv[1], "a") as file:
        print(word, os.getpid(), file=file)
def term(*_):
    tell("term")
    if "deaf" not in sys.argv:
        sys.exit(0)
signal.signal(signal.SIGTERM, term)
signal.signal(signal.SIGHUP, lambda *_: tell("hup"))
if "child" in sys.argv:
    child = subprocess.Popen([sys.executable, "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True);"
        "time.sleep(600)"], stdout=subprocess.PIPE)
    child.stdout.readline()
    with open(sys.argv[1], "a") as file:
        print("child", child.pid, file=file)
tell("start")
while not pathlib.Path(sys.argv[1] + "-end").exists():
    time.sleep(0.01)
sys.exit(5)
"""


class Driver:
    """A command as the supervisor has it, in a node that is ready or not."""

    def __init__(self, base: Path) -> None:
        self.told = base / "told"
        self.reactor = Reactor()
        self.ready = True
        self.ended: list[int] = []
        self.failed: list[Exception] = []
        self.command: AppCommand | None = None

    def start(self, policy: str, *words: str) -> AppCommand:
        self.command = command = AppCommand(
            [sys.executable, "-c", SCRIPT, str(self.told), *words], policy, self.reactor,
            stopped=self._stopped, ended=self.ended.append, failed=self.failed.append,
        )  # fmt: skip
        self.reactor.every(0.01, command.watch)
        command.node_is_ready()
        self.until_lines(*(["child"] if "child" in words else []), "start")
        return command

    def _stopped(self) -> None:
        if self.ready:
            assert self.command is not None
            self.command.node_is_ready()

    def turn(self) -> None:
        self.reactor.later(0.005, lambda: None)
        self.reactor._turn()

    def words(self) -> list[str]:
        return [word for word, _ in self.lines()]

    def lines(self) -> list[tuple[str, int]]:
        text = self.told.read_text() if self.told.exists() else ""
        pairs = [line.split() for line in text.splitlines()]
        return [(word, int(pid)) for word, pid in pairs]

    def until_lines(self, *expected: str) -> None:
        def check() -> bool:
            self.turn()
            assert self.words() == list(expected)
            return True

        eventually(check)

    def end_by_itself(self) -> None:
        """Have the command end with 5, and its successor live."""
        assert self.command is not None
        process = self.command._process
        assert process is not None
        flag = Path(f"{self.told}-end")
        flag.touch()
        process.wait(20)
        flag.unlink()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    yield made
    if made.command is not None:
        made.command.kill()
    for word, pid in made.lines():
        if word == "child":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as found:
        yield found


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("none", ["start"]),
        ("SIGHUP", ["start", "hup"]),
        ("restart", ["start", "term", "start"]),
    ],
)
def test_command_when_the_role_changes_then_it_gets_what_the_key_says(
    driver: Driver, policy: str, words: list[str]
) -> None:
    """Nothing, the signal, or a restart; its end is still the node's afterwards."""
    command = driver.start(policy)
    command.role_changes()
    assert driver.words() == ["start"]
    command.role_changed(done=True)
    driver.until_lines(*words)
    assert driver.ended == []
    driver.end_by_itself()
    eventually(lambda: driver.turn() or driver.ended)
    assert driver.ended == [5]
    assert driver.words() == words


@pytest.mark.parametrize("policy", ["SIGHUP", "restart"])
def test_command_when_the_role_could_not_be_changed_then_it_is_left_alone(
    driver: Driver, policy: str
) -> None:
    """A change that did not happen is none."""
    command = driver.start(policy)
    command.role_changes()
    command.role_changed(done=False)
    command.forward(signal.SIGHUP)  # whatever else was sent would have come before
    driver.until_lines("start", "hup")


def test_restart_when_the_node_is_not_ready_then_it_waits_for_that(driver: Driver) -> None:
    """And two changes meanwhile are one restart."""
    command = driver.start("restart")
    driver.ready = False
    for _ in range(2):
        command.role_changes()
        command.role_changed(done=True)
    driver.until_lines("start", "term")
    eventually(lambda: driver.turn() or command._due)
    command.role_changes()
    command.role_changed(done=True)
    assert driver.words() == ["start", "term"]
    command.node_is_ready()
    command.node_is_ready()
    driver.until_lines("start", "term", "start")
    assert driver.ended == []


@pytest.mark.parametrize("done", [True, False])
def test_restart_when_the_command_ends_by_itself_meanwhile_then_that_was_it(
    driver: Driver, done: bool
) -> None:
    """Whether the change then happens or not; once, and not as the end of the node."""
    command = driver.start("restart")
    command.role_changes()
    driver.end_by_itself()
    command.role_changed(done=done)
    driver.until_lines("start", "start")
    for _ in range(20):
        driver.turn()
    assert driver.words() == ["start", "start"]
    assert driver.ended == []


@pytest.mark.parametrize("deaf", [["deaf"], []], ids=["command and child", "child alone"])
def test_restart_when_the_command_or_its_children_are_deaf_then_they_are_killed_first(
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    logs: list[MutableMapping[str, Any]],
    deaf: list[str],
) -> None:
    """None of them runs when the successor does."""
    monkeypatch.setattr(app_command, "STOP_S", 1.0)
    command = driver.start("restart", "child", *deaf)
    first = [pid for _, pid in driver.lines()]
    command.role_changes()
    command.role_changed(done=True)
    while not any("to be restarted" in each["event"] for each in logs):
        driver.turn()
    assert [each["log_level"] for each in logs if "does not stop" in each["event"]] == ["warning"]
    for pid in first:
        eventually(lambda pid=pid: has_ended(pid))  # SIGKILL is on its way at most
    driver.until_lines("child", "start", "term", "child", "start")


def test_restart_when_the_node_is_told_to_stop_then_it_is_not_started_again(
    driver: Driver,
) -> None:
    """Before, while and after the command ends."""
    command = driver.start("restart")
    driver.ready = False
    command.role_changes()
    command.role_changed(done=True)
    driver.until_lines("start", "term")
    eventually(lambda: driver.turn() or command._due)
    assert not command.told_to_stop(signal.SIGTERM)
    command.node_is_ready()
    assert driver.ended == []
    assert driver.words() == ["start", "term"]


def test_restart_when_the_command_was_told_to_stop_then_a_change_of_role_changes_nothing(
    driver: Driver,
) -> None:
    """Its end is the node's."""
    command = driver.start("restart", "deaf")
    assert command.told_to_stop(signal.SIGTERM)
    driver.until_lines("start", "term")
    command.role_changes()
    driver.end_by_itself()
    command.role_changed(done=True)
    eventually(lambda: driver.turn() or driver.ended)
    assert driver.ended == [5]
    assert driver.words() == ["start", "term"]


def test_command_when_there_is_no_process_for_it_then_it_is_started_when_there_is(
    driver: Driver, logs: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the limit; the node does not end for it."""
    start, refusals = subprocess.Popen, iter([errno.EAGAIN, errno.ENOMEM, errno.EAGAIN])

    def starting(*words: Any, **options: Any) -> Any:
        for number in refusals:
            raise OSError(number, os.strerror(number))
        return start(*words, **options)

    monkeypatch.setattr(app_command.subprocess, "Popen", starting)
    monkeypatch.setattr(process_limits, "PAUSE_S", 0.01)
    monkeypatch.setattr(process_limits, "reached", lambda: "that limit")
    driver.start("none")
    assert not driver.failed
    (line,) = [each for each in logs if each["log_level"] == "warning"]
    assert line["event"] == "no process for the command; trying again"
    assert line["raise_the_limit"] == "that limit"
