"""One FUSE session: mounted, served on our own loop, unmounted.

The only place that starts or ends pyfuse3's session. Never cleans up after others, except for the
stale mount of a former process of the same node, which it replaces at the moment of mounting.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable

import pyfuse3

from litemq import thread_room
from litemq.errors import LiteMQError
from litemq.fs import mount
from litemq.fs.poll_loop import PollLoop

#: requests that may wait at the same time
MAX_PARKED = 400
#: how often to look whether somebody still has a file open
LOOK_S = 0.005


class Session:
    """A mount of this process."""

    def __init__(self, loop: PollLoop, path: str, *, name: str, allow_other: bool) -> None:
        self._loop = loop
        self._path = path
        self._options = set(pyfuse3.default_options) | {f"fsname={name}"}
        if allow_other:
            self._options.add("allow_other")
        elif os.geteuid() == 0:
            # Only root can enter, whom modes do not bind. Checking them all the same would ask us
            # for the directory's after every change to it: three calls a commit in DELETE mode.
            self._options.discard("default_permissions")
        self._mounted = False
        self._detached = False
        self._detaching: threading.Thread | None = None

    def mount(self, operations: pyfuse3.Operations) -> None:
        """Mount now. Raises LiteMQError; NoThreadError where that may be the reason."""
        self._loop.install()
        mount.detach_stale_fuse(self._path)
        try:
            with mount.writable(self._path):
                pyfuse3.init(operations, self._path, self._options)
        except RuntimeError as error:
            if os.geteuid():  # fusermount3 is a process of its own
                thread_room.check(1)
            raise LiteMQError(
                f"{self._path} can't be mounted ({error}); /dev/fuse must be there, and without "
                "root fusermount3 from the package fuse3, and for `allow-other` the line "
                "user_allow_other in /etc/fuse.conf"
            ) from error
        self._mounted = True

    async def serve(self) -> None:
        """Answer requests until somebody else unmounts."""
        await pyfuse3.main(max_tasks=MAX_PARKED)

    async def detach(self, in_use: Callable[[], bool], grace_s: float) -> None:
        """Let nobody open anything any more, and serve who has files open for a moment.

        A program that has just mapped a `-shm` is killed by the kernel if it touches it when the
        session has ended; so who is about to close its database may do so.
        """
        self._detaching = detaching = threading.Thread(
            target=self._take_away, name="detach", daemon=True
        )
        try:
            detaching.start()  # not here: the kernel may ask us for something before it is done
        except RuntimeError:  # no thread is left: the mount goes when the session has ended
            self._detaching = None
            return
        end_s = time.monotonic() + grace_s
        while (detaching.is_alive() or (in_use() and self._detached)) and time.monotonic() < end_s:
            await self._loop.sleep(LOOK_S)

    def _take_away(self) -> None:
        with contextlib.suppress(LiteMQError, subprocess.TimeoutExpired):
            mount.detach(self._path)
            self._detached = True

    def unmount(self) -> None:
        """End the session; whoever still has files open in it gets errors from now on."""
        if self._mounted:
            self._mounted = False
            with contextlib.suppress(RuntimeError):
                # what is mounted there now may be what lay below
                under_way = self._detaching is not None and self._detaching.is_alive()
                pyfuse3.close(unmount=not (self._detached or under_way))
