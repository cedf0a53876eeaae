"""Writes are noticed with inotify, without it, and when it comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sql_process import IMPORT_PATH

from litemq.actors import write_watch
from litemq.actors.reactor import Reactor
from litemq.actors.write_watch import WriteWatch

#: what the system allows, and what of it becomes of a file: `none`, then more
SCRIPT = """
import sys
from pathlib import Path
from litemq.actors import write_watch
from litemq.actors.reactor import Reactor
from litemq.actors.write_watch import WriteWatch

limit = Path("/proc/sys/user/max_inotify_" + sys.argv[1])
write_watch.HEAL_S = 0.02
limit.write_text("0")
reactor, seen = Reactor(), []
watch = WriteWatch(reactor, lambda: seen.append(watch.take()))
path = Path(sys.argv[2])
watch.add(str(path), "a.db")
def look(what):
    for _ in range(2000):
        reactor._turn()
        if what():
            return
    raise SystemExit("nothing was seen")
look(lambda: {"a.db"} in seen)
limit.write_text("100")
look(lambda: not watch._polled)
for _ in range(20):
    reactor.later(0.001, lambda: None)
    reactor._turn()
seen.clear()
path.write_text("changed")
look(lambda: {"a.db"} in seen)
print("ok")
"""


@pytest.mark.parametrize("limit", ["watches", "instances"])
def test_watch_when_the_user_has_no_inotify_left_then_files_are_polled_until_there_is(
    tmp_path: Path, limit: str
) -> None:
    """With the kernel's own limit, in a user namespace of its own."""
    path = tmp_path / "a.db-wal"
    path.write_text("")
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", SCRIPT, limit, str(path)],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PYTHONPATH": IMPORT_PATH, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if "used up" in line]
    assert len(warnings) == 1
    assert f"fs.inotify.max_user_{limit}" in warnings[0]


class Refusing:
    """inotify, where there is none."""

    def __init__(self, **_: object) -> None:
        raise OSError(24, "Too many open files")


@pytest.fixture
def none_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_watch, "INotify", Refusing)


@pytest.mark.usefixtures("none_left")
def test_file_when_it_is_not_followed_any_more_then_nobody_looks_at_it() -> None:
    """And when there is nothing to look at, the process sleeps."""
    reactor = Reactor()
    seen: list[set[str]] = []
    watch = WriteWatch(reactor, lambda: seen.append(watch.take()))
    watch.add("/tmp/a", "a.db")
    watch.add("/tmp/b", "b.db")
    watch.remove("a.db")
    for _ in range(20):
        reactor.later(0.001, lambda: None)
        reactor._turn()
    assert seen
    assert all(names == {"b.db"} for names in seen)
    watch.remove("b.db")
    for _ in range(50):
        reactor.later(0.001, lambda: None)
        reactor._turn()
    assert not watch._polling


def test_watch_when_the_file_is_just_not_there_then_no_limit_is_blamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite deletes a WAL whenever it likes; the others are watched, and so is a new one."""
    monkeypatch.setattr(write_watch, "HEAL_S", 0.0)
    reactor = Reactor()
    seen: list[set[str]] = []
    watch = WriteWatch(reactor, lambda: seen.append(watch.take()))
    path, other = tmp_path / "a.db-wal", tmp_path / "b.db-wal"
    other.write_text("")
    watch.add(str(path), "a.db")
    watch.add(str(other), "b.db")
    assert list(watch._polled) == ["a.db"]
    path.write_text("")
    for _ in range(200):
        reactor.later(0.001, lambda: None)
        reactor._turn()
        if not watch._polled:
            break
    assert not watch._polled
    seen.clear()
    path.write_text("changed")
    reactor._turn()
    assert seen == [{"a.db"}]
    told = capsys.readouterr()
    assert "inotify" not in told.out + told.err
    watch.close()
