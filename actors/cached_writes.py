"""Where the kernel caches writes: files are opened in the mount, and the kernel is asked to write.

A database that somebody may write is watched. Its pages stay in the kernel until its program syncs,
and with synchronous=OFF none does: so a moment after a write the kernel is asked for them, and the
mount then reports what no journal explains. Never waits for the mount in the actor's own thread.
Always true: a `-wal` is handed over only after what was written before it has been reported.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from functools import partial

from litemq.actors.helper_thread import HelperThread
from litemq.actors.layout import Layout
from litemq.actors.reactor import Reactor
from litemq.actors.write_watch import WriteWatch
from litemq.fs.write_out import write_out

#: pages are asked for so long after a write to a database (seconds)
WRITE_OUT_AFTER_S = 0.05
#: when a file in the mount can't be opened yet
REOPEN_S = 0.001

FileOpened = Callable[[int], None]


class CachedWrites:
    """The files of a mount whose writes are cached, as the log writer has them open."""

    def __init__(
        self,
        reactor: Reactor,
        helper: HelperThread,
        layout: Layout,
        *,
        mount_path: Callable[[str], str],
        ask_report: Callable[[int, str], object],
        has_wal: Callable[[str], bool],
    ) -> None:
        """`ask_report` has the mount report what was written; `reported` gets its token.

        `has_wal`: pages of such a database come by checkpoints and are not asked for.
        """
        self._reactor = reactor
        self._helper = helper
        self._layout = layout
        self._mount_path = mount_path
        self._ask_report = ask_report
        self._has_wal = has_wal
        self._databases: dict[str, int] = {}
        #: which opening of a database counts: the last one
        self._serials: dict[str, int] = {}
        self._written_names: set[str] = set()
        self._waiting: dict[int, tuple[int, FileOpened]] = {}
        self._watch = WriteWatch(reactor, self._written)

    # --- a `-wal`

    def open_wal(self, name: str, done: FileOpened) -> None:
        """Open it in the mount; `done` gets the descriptor, or is not called if it has gone."""

        def opened(fd: int | None) -> None:
            if fd is not None:
                token = secrets.randbits(62)
                self._waiting[token] = (fd, done)
                self._ask_report(token, name)
            elif os.path.exists(f"{self._layout.files / name}-wal"):
                # we heard of it before the kernel did
                self._reactor.later(REOPEN_S, lambda: self.open_wal(name, done))

        self._helper.run(lambda: write_out_in_mount(self._mount_path(name)))
        # for writing, too: see WalTail.seal
        self._helper.open_file(f"{self._mount_path(name)}-wal", opened, writing=True)

    def reported(self, token: int) -> None:
        """What was written before the token was asked for has been reported."""
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            fd, done = waiting
            done(fd)

    # --- databases that somebody may write

    def opened(self, name: str) -> None:
        """Watch it."""
        serial = self._serials[name] = self._serials.get(name, 0) + 1

        def opened(fd: int | None) -> None:
            if fd is None:
                if os.path.exists(self._layout.files / name):
                    self._reactor.later(REOPEN_S, again)
            elif self._serials.get(name) != serial:
                self._helper.run(lambda: close_in_mount(fd))
            else:
                self._close(name)
                self._databases[name] = fd
                self._watch.add(f"/proc/self/fd/{fd}", name)
                self._ask_for(name)  # what was written before it was watched

        def again() -> None:
            if self._serials.get(name) == serial:
                self._helper.open_file(self._mount_path(name), opened)

        again()

    def closed(self, name: str) -> None:
        """Nobody may write it: all of it has come."""
        self._serials[name] = self._serials.get(name, 0) + 1
        self._close(name)

    def write_out(self, wanted: str, then: Callable[[], None]) -> None:
        """Have the kernel write what it holds of a database without a WAL, or of all, then call."""
        fds = [
            fd
            for name, fd in self._databases.items()
            if wanted in ("", name) and not self._has_wal(name)
        ]

        def work() -> None:
            for fd in fds:
                write_out_in_mount(fd)

        self._helper.call(work, lambda _: then())

    def start_over(self) -> None:
        """The mount is another one, or answers nothing that it was asked before."""
        for name in list(self._serials):  # those that are being opened, too
            self.closed(name)
        waiting, self._waiting = self._waiting, {}
        for fd, _ in waiting.values():
            self._helper.run(partial(close_in_mount, fd))

    def _close(self, name: str) -> None:
        fd = self._databases.pop(name, None)
        if fd is not None:
            self._watch.remove(name)
            self._helper.run(lambda: close_in_mount(fd))  # behind what is asked of it

    def _written(self) -> None:
        self._written_names |= self._watch.take()
        self._watch.rest(WRITE_OUT_AFTER_S)
        self._reactor.later(WRITE_OUT_AFTER_S, self._ask_for_all)

    def _ask_for_all(self) -> None:
        names, self._written_names = self._written_names, set()
        for name in names:
            self._ask_for(name)

    def _ask_for(self, name: str) -> None:
        fd = self._databases.get(name)
        if fd is not None and not self._has_wal(name):
            self._helper.run(lambda: write_out_in_mount(fd))


def close_in_mount(fd: int) -> None:
    """Close a descriptor of the mount; ENOTCONN when the mount has died."""
    with contextlib.suppress(OSError):
        os.close(fd)


def write_out_in_mount(file: int | str) -> None:
    """Have the kernel write what it holds of a file, unless the mount has died, and its cache.

    The file: a descriptor, or its path in the mount.
    """
    with contextlib.suppress(OSError):
        if isinstance(file, int):
            write_out(file)
            return
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            write_out(fd)
        finally:
            close_in_mount(fd)


def write_out_with_journal(fd: int, journal: str) -> None:
    """Likewise of a database and, before it, of the journal beside it (its path in the mount).

    Its pages say nothing as long as it is not known whether a transaction is under way.
    """
    write_out_in_mount(journal)
    write_out_in_mount(fd)
