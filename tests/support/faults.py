"""System calls of this process that fail for one database: the Nth one, or all from the Nth on."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from litemq.actors.helper_thread import HelperThread

CALLS = (
    "open", "read", "pread", "preadv", "write", "pwrite", "pwritev", "writev", "stat", "fstat",
    "fsync", "fdatasync", "ftruncate", "posix_fallocate", "unlink", "rename", "replace", "mkdir",
    "dup", "listdir", "scandir", "sendfile", "copy_file_range",
)  # fmt: skip


class Faults:
    """What fails: `errno`, from the call number `first` on, as many as `times`."""

    def __init__(self, name: str) -> None:
        """Calls whose path, or whose descriptor's path, has `name` in it."""
        self._name = name
        self._errno = 0
        self._first = self._left = 0
        self.count = 0
        self.hit = ""

    def arm(self, errno: int, first: int, times: int) -> None:
        self._errno, self._first, self._left, self.count, self.hit = errno, first, times, 0, ""

    def disarm(self) -> None:
        self._left = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What the test itself does meanwhile does not fail."""
        left, self._left = self._left, 0
        try:
            yield
        finally:
            self._left = left

    def check(self, call: str, target: object) -> None:
        if not self._left or not self._concerns(target):
            return
        self.count += 1
        if self.count >= self._first:
            self._left -= 1
            self.hit = self.hit or f"{call} {target!r}"
            raise OSError(self._errno, os.strerror(self._errno), str(target))

    def _concerns(self, target: object) -> bool:
        if isinstance(target, int):
            try:
                return self._name in os.readlink(f"/proc/self/fd/{target}")
            except OSError:
                return False
        return isinstance(target, str | bytes | os.PathLike) and self._name in os.fsdecode(target)


@contextmanager
def injected(faults: Faults) -> Iterator[None]:
    """Let the calls of `os`, and `open`, fail as `faults` says."""
    kept: dict[str, Any] = {name: getattr(os, name) for name in CALLS if hasattr(os, name)}
    kept_open = builtins.open

    def failing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            faults.check(name, args[0] if args else None)
            return call(*args, **options)

        return wrapped

    def opening(file: Any, *args: Any, **options: Any) -> Any:
        faults.check("open", file)
        return kept_open(file, *args, **options)

    try:
        for name, call in kept.items():
            setattr(os, name, failing(name, call))
        builtins.open = opening
        yield
    finally:
        for name, call in kept.items():
            setattr(os, name, call)
        builtins.open = kept_open


def end_helper(helper: HelperThread) -> None:
    """Its thread ends behind what it has to do, and gives its descriptors back."""

    def end() -> None:
        os.close(helper.fd)
        os.close(helper._wake)
        raise SystemExit

    helper._jobs.put(end)
    helper._thread.join()
