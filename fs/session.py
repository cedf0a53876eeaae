"""One FUSE session: mounted, served on our own loop, unmounted.

The only place that starts or ends pyfuse3's session. Never cleans up after others, except for the
stale mount of a former process of the same node, which it replaces at the moment of mounting.
"""

from __future__ import annotations

import contextlib

import pyfuse3

from litemq.errors import LiteMQError
from litemq.fs import mount
from litemq.fs.poll_loop import PollLoop

#: requests that may wait at the same time
MAX_PARKED = 400


class Session:
    """A mount of this process."""

    def __init__(self, loop: PollLoop, path: str, *, name: str, allow_other: bool) -> None:
        self._loop = loop
        self._path = path
        self._options = set(pyfuse3.default_options) | {f"fsname={name}"}
        if allow_other:
            self._options.add("allow_other")
        self._mounted = False

    def mount(self, operations: pyfuse3.Operations) -> None:
        """Mount now. Raises LiteMQError."""
        self._loop.install()
        mount.detach_stale_fuse(self._path)
        try:
            with mount.writable(self._path):
                pyfuse3.init(operations, self._path, self._options)
        except RuntimeError as error:
            raise LiteMQError(
                f"{self._path} can't be mounted ({error}); /dev/fuse must be there, and without "
                "root fusermount3 from the package fuse3, and for `allow-other` the line "
                "user_allow_other in /etc/fuse.conf"
            ) from error
        self._mounted = True

    async def serve(self) -> None:
        """Answer requests until somebody else unmounts."""
        await pyfuse3.main(max_tasks=MAX_PARKED)

    def unmount(self) -> None:
        """Take the mount away; whoever still has files open in it gets errors from now on."""
        if self._mounted:
            self._mounted = False
            with contextlib.suppress(RuntimeError):
                pyfuse3.close(unmount=True)
