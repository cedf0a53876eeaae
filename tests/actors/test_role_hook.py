"""The hook without a node: real loaders and hook processes, driven by a loop of the test's own."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from leftovers import has_ended
from structlog.testing import capture_logs
from waiting import eventually

from litemq import config as configuration
from litemq.actors import hook_loader, process_limits, user_process
from litemq.actors.reactor import Reactor
from litemq.actors.role_hook import MAX_LINES, RoleHook
from litemq.errors import ConfigError
from litemq.hooks import RoleChanged

NODE = """
[node]
name = "a"
data-dir = "{base}/data"
[mount]
path = "{base}/mnt"
[stream]
listen = "tcp://127.0.0.1:7100"
[election]
kind = "file"
path = "{base}/lock"
on-change-limit = "{limit}"
on-change = "{hook}"
"""


class Driver:
    """A hook, its loop, and the log."""

    def __init__(self, base: Path, logs: list[MutableMapping[str, Any]]) -> None:
        self.base = base
        self.logs = logs
        self.told = base / "told"
        self.limit = "30s"
        self.reactor = Reactor()
        self.hook: RoleHook | None = None

    def config(self, hook: str = "hooks.py:changed") -> configuration.Config:
        file = self.base / "node.toml"
        text = NODE.replace("{base}", str(self.base)).replace("{hook}", hook)
        file.write_text(text.replace("{limit}", self.limit))
        return configuration.load(file)

    def write(self, text: str, name: str = "hooks.py") -> None:
        (self.base / name).write_text(text.replace("{told}", str(self.told)))

    def load(self, text: str) -> RoleHook:
        self.write(text)
        config = self.config()
        self.hook = RoleHook(config, hook_loader.load(config), self.reactor)
        self.reactor.every(0.05, self.hook.watch)
        return self.hook

    def until(self, check: Callable[[], Any], what: str) -> Any:
        """Let the loop work until it is so."""

        def turn() -> Any:
            self.reactor.later(0.005, lambda: None)
            self.reactor._turn()
            return check()

        return eventually(turn, what=what)

    def lines(self) -> list[str]:
        return self.told.read_text().splitlines() if self.told.exists() else []

    def events(self, name: str) -> list[MutableMapping[str, Any]]:
        return [each for each in self.logs if each["event"] == name]

    def wait(self, name: str, count: int = 1) -> MutableMapping[str, Any]:
        self.until(lambda: len(self.events(name)) >= count, f"{count} times {name}")
        return self.events(name)[count - 1]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    with capture_logs() as logs:
        made = Driver(tmp_path, logs)
        yield made
        if made.hook is not None:
            made.hook.close()


TELL = """
def tell(*words):
    with open("{told}", "a") as file:
        print(*words, file=file)
"""


def test_hook_when_it_uses_helpers_globals_and_a_file_beside_it_then_they_come_along(
    driver: Driver,
) -> None:
    """By value: the files are gone when it is called. What it printed stands above its end."""
    driver.write("WORD = 'beside'\ndef loud(text):\n    return text.upper()\n", "beside.py")
    hook = driver.load(
        "import beside\nfrom beside import loud\n" + TELL + "seen = []\n"
        "def changed(change):\n"
        "    seen.append(change.role)\n"
        "    tell(beside.WORD, loud('x'), *seen)\n"
        "    print('one'); print('two')\n"
    )
    for name in ("hooks.py", "beside.py"):
        (driver.base / name).unlink()
    hook.serves(3, "why")
    driver.wait("hook returned")
    hook.deposed(3, "why")
    driver.wait("hook returned", 2)
    assert driver.lines() == ["beside X primary", "beside X primary replica"]
    told = [each.get("text", each["event"]) for each in driver.logs]
    assert told[:4] == ["hook called", "one", "two", "hook returned"]
    assert not list(driver.base.glob("__pycache__"))


def test_hook_when_it_fails_then_message_and_line_are_logged_and_it_is_called_again(
    driver: Driver,
) -> None:
    """Whatever it raises, in the same process."""
    hook = driver.load(
        "import os\n" + TELL + "def fail(change):\n"
        "    raise (SystemExit if change.epoch == 2 else ValueError)('no\\nway')\n"
        "def changed(change):\n"
        "    tell(os.getpid())\n"
        "    if change.epoch < 3: fail(change)\n"
    )
    hook.serves(1, "why")
    failed = driver.wait("the hook failed")
    assert failed["log_level"] == "warning"
    assert failed["reason"] == "ValueError: no way"
    assert failed["where"] == f"{driver.base / 'hooks.py'}:7"
    hook.serves(2, "why")
    assert driver.wait("the hook failed", 2)["reason"] == "SystemExit: no way"
    hook.serves(3, "why")
    driver.wait("hook returned")
    assert len(set(driver.lines())) == 1


def test_hook_when_it_never_returns_then_it_is_killed_and_the_next_is_of_the_same_file(
    driver: Driver,
) -> None:
    """With what it has started; an edit meanwhile does not count."""
    code = (
        "import os, signal, subprocess, time\n" + TELL + "def changed(change):\n"
        "    tell('old', change.role, os.getpid())\n"
        "    if change.role == 'primary':\n"
        "        child = subprocess.Popen(['sleep', '600'])\n"
        "        tell('child', child.pid)\n"
        "        print('before', flush=True)\n"
        "        while True: time.sleep(1)\n"
    )
    driver.limit = "4s"
    hook = driver.load(code)
    hook.serves(1, "why")
    driver.until(lambda: len(driver.lines()) == 2, "it was called")
    driver.write(code.replace("'old'", "'new'"))
    killed = driver.wait("the hook does not return; killed")
    assert killed["limit_s"] == 4.0
    assert driver.events("hook printed")
    hook.deposed(1, "why")
    driver.wait("hook returned")
    (first, child, second) = (line.split() for line in driver.lines())
    assert second[:2] == ["old", "replica"]
    assert first[2] != second[2]
    for pid in (first[2], child[1]):
        driver.until(lambda pid=pid: has_ended(int(pid)), "it is dead")


def test_hook_when_changes_come_faster_then_the_newest_waits_and_the_log_says_so(
    driver: Driver,
) -> None:
    """It is held in its first call; of four that come then, the last is told."""
    hook = driver.load(
        "import os, time\n" + TELL + "def changed(change):\n"
        "    tell(change.epoch, change.role)\n"
        "    while not os.path.exists('{told}-go'): time.sleep(0.01)\n"
    )
    hook.serves(1, "why")
    driver.until(driver.lines, "it is in its first call")
    for epoch in (2, 3):
        hook.deposed(epoch - 1, "why")
        hook.serves(epoch, "why")
    assert driver.lines() == ["1 primary"]
    Path(f"{driver.told}-go").touch()
    driver.wait("hook returned", 2)
    assert driver.lines() == ["1 primary", "3 primary"]
    overtaken = [
        (e["role"], e["epoch"]) for e in driver.events("the hook was too slow for a change")
    ]
    assert overtaken == [("replica", 1), ("primary", 2), ("replica", 2)]


@pytest.mark.parametrize(("how", "code"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)])
def test_hook_when_its_process_ends_then_that_is_logged_and_another_is_started(
    driver: Driver, how: str, code: int
) -> None:
    """The waiting change is told by the new one."""
    hook = driver.load(
        "import os\n" + TELL + f"def changed(change):\n    if change.epoch == 1: {how}\n"
        "    tell(change.epoch)\n"
    )
    hook.serves(1, "why")
    hook.serves(2, "why")
    driver.wait("hook returned")
    assert [each["code"] for each in driver.events("the hook's process ended")] == [code]
    assert driver.lines() == ["2"]


def test_hook_when_it_prints_without_end_then_the_log_is_bounded(driver: Driver) -> None:
    """It is slowed down, and the node's end ends it."""
    hook = driver.load("def changed(change):\n    while True: print('x' * 30)\n")
    hook.serves(1, "why")
    driver.wait("hook printed", MAX_LINES)
    hook.stop()
    driver.wait("the hook does not return; killed")
    assert len(driver.events("hook printed")) == MAX_LINES
    assert driver.events("the hook printed more")[0]["lines_left_out"] > 0


def test_hook_when_the_node_stops_then_a_call_has_a_moment(driver: Driver) -> None:
    """Its end is waited for; what comes later is not told; nothing remains."""
    hook = driver.load(
        "import os, time\n" + TELL + "def changed(change):\n"
        "    tell(os.getpid())\n"
        "    while not os.path.exists('{told}-go'): time.sleep(0.01)\n"
        "    tell('done')\n"
    )
    ended: list[bool] = []
    hook.serves(1, "why")
    driver.until(driver.lines, "it is in its call")
    hook.stop()
    hook.when_idle(lambda: ended.append(True))
    hook.deposed(1, "why")
    assert not ended
    Path(f"{driver.told}-go").touch()
    driver.until(lambda: ended, "it is idle")
    assert driver.lines()[1:] == ["done"]
    hook.close()
    assert has_ended(int(driver.lines()[0]))
    assert len(driver.events("hook called")) == 1


OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
PAGE = OPERATIONS.partition("### When the role changes")[2].partition("<!-- begin")[0]


def test_example_when_typed_then_it_does_what_it_says(driver: Driver) -> None:
    """The function of docs/operations.md, and its keys in a file of a node."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    election, app = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    hook = driver.load(code.replace("/run/", f"{driver.base}/"))
    head = NODE.partition("[election]")[0].replace("{base}", str(driver.base))
    file = driver.base / "example.toml"
    file.write_text(head + election + app)
    config = configuration.load(file)
    assert config.on_change == (driver.base / "hooks.py", "changed")
    assert config.app.on_role_change == "restart"
    hook.serves(7, "it was asked for")
    driver.wait("hook returned")
    assert json.loads((driver.base / "litemq-role").read_text()) == {
        "role": "primary", "primary": "tcp://127.0.0.1:7100",
    }  # fmt: skip
    printed = [each["text"] for each in driver.events("hook printed")]
    assert printed == ["a is primary in epoch 7: it was asked for"]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", PAGE, re.M)))) >= {
        field.name for field in dataclasses.fields(RoleChanged)
    }


UNREADY = {
    "hooks.py": "import threading\nlock = threading.Lock()\nnumber = 3\n"
    "def changed(change): pass\ndef noarg(): pass\ndef two(a, b): pass\n"
    "async def later(change): pass\ndef locked(change): lock.acquire()\n",
    "syntax.py": "x = 1\ndef changed(:\n",
    "raises.py": "\n\nx = undefined\n",
    "exits.py": "import sys\nsys.exit('no')\n",
    "dies.py": "import os\nos._exit(0)\n",
}


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("none.py:changed", "{base}/none.py can't be read: No such file or directory"),
        ("data:changed", "{base}/data can't be read: Is a directory"),
        ("syntax.py:changed", "{base}/syntax.py:2 can't be loaded: SyntaxError: invalid syntax"),
        ("raises.py:changed", "{base}/raises.py:3 can't be loaded: NameError: name 'undefined'"),
        ("exits.py:changed", "{base}/exits.py:2 can't be loaded: SystemExit: no"),
        ("dies.py:changed", "{base}/dies.py ends the process that loads it (code 0)"),
        ("hooks.py:chnaged", '{base}/hooks.py has no function "chnaged"; did you mean "changed"?'),
        ("hooks.py:number", '"number" in {base}/hooks.py must be a function, not int'),
        ("hooks.py:noarg", '"noarg" in {base}/hooks.py must take one argument'),
        ("hooks.py:two", '"two" in {base}/hooks.py must take one argument'),
        ("hooks.py:later", '"later" in {base}/hooks.py must be a plain function, not an async'),
        ("hooks.py:locked", '"locked" in {base}/hooks.py can\'t be sent to its process: TypeError'),
    ],
)
def test_load_when_the_function_cannot_be_had_then_one_line_says_why(
    driver: Driver, hook: str, said: str
) -> None:
    """File, key, and what to change; nothing of the file ran in this process."""
    (driver.base / "data").mkdir()
    for name, text in UNREADY.items():
        driver.write(text, name)
    config = driver.config(hook)
    with pytest.raises(ConfigError) as caught:
        hook_loader.load(config)
    message = str(caught.value)
    assert "\n" not in message
    expected = said.replace("{base}", str(driver.base))
    assert message.startswith(f"{config.path}: [election] on-change: {expected}")


def test_load_when_the_file_never_ends_then_it_is_given_up(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the process that loads it is killed."""
    monkeypatch.setattr(hook_loader, "LOAD_S", 0.5)
    driver.write(
        "import os, time\n" + TELL + "tell(os.getpid())\nwhile True: time.sleep(1)\n"
        "def changed(change): pass\n"
    )
    with pytest.raises(ConfigError, match=r"hooks\.py is not loaded within"):
        hook_loader.load(driver.config())
    for pid in driver.lines():
        eventually(lambda pid=pid: has_ended(int(pid)), what="it is dead")


def test_hook_when_loaded_then_this_process_has_not_run_it(driver: Driver) -> None:
    """User code runs in the loader and in the hook's process, once in each."""
    hook = driver.load(
        "import os\n" + TELL + "tell('file', os.getpid())\n"
        "def changed(change): tell('call', os.getpid())\n"
    )
    hook.serves(1, "why")
    driver.wait("hook returned")
    words = [line.split() for line in driver.lines()]
    assert [word for word, _ in words] == ["file", "call"]
    assert len({*(pid for _, pid in words), str(os.getpid())}) == 3


def test_hook_when_there_is_no_process_for_it_then_the_newest_change_is_told_when_there_is(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the limit."""
    start, refusing = user_process.start, True

    def starting(*words: Any, **options: Any) -> Any:
        if refusing:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*words, **options)

    monkeypatch.setattr(process_limits, "PAUSE_S", 0.01)
    hook = driver.load(TELL + "def changed(change):\n    tell(change.role, change.epoch)\n")
    monkeypatch.setattr(user_process, "start", starting)
    hook.serves(1, "why")
    hook.deposed(1, "why")
    driver.until(lambda: hook._number > 5, "several attempts")
    refusing = False
    driver.wait("hook returned")
    assert driver.lines() == ["replica 1"]
    assert len(driver.events("no process for the hook; trying again")) == 1
    hook.serves(2, "why")
    driver.wait("hook returned", 2)
