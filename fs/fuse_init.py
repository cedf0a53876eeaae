"""The first request of a FUSE session, and what it must not offer.

pyfuse3 decides alone what it accepts of the kernel's offers in FUSE_INIT, and it accepts
FUSE_AUTO_INVAL_DATA: after each write the kernel would then take the changed mtime for somebody
else's write and drop every cached page of the file. Nobody but the kernel writes to our backing
files, so that offer is taken out before libfuse sees it. Measured: a one-page commit in WAL mode
costs two FUSE writes instead of three, and readers of a database that is being written go on
reading from the page cache.

Owns the descriptor of the session for the time of that one exchange. Source of the layouts:
`linux/fuse.h`, a stable interface of the kernel.
"""

from __future__ import annotations

import os
import select
import socket
import struct

from litemq.errors import LiteMQError

#: struct fuse_in_header begins with the length (u32) and the opcode (u32)
_HEADER = struct.Struct("=II")
_FUSE_INIT = 26
#: fuse_in_header (40 bytes), then fuse_init_in: major, minor, max_readahead, flags (u32 each)
_FLAGS = struct.Struct("=I")
_FLAGS_OFFSET = 40 + 12
_FUSE_AUTO_INVAL_DATA = 1 << 12
#: the kernel refuses a read that could not take the largest request
_READ_BYTES = 1024 * 1024 + 4096
#: the kernel queues FUSE_INIT at the moment of mounting
_PATIENCE_MS = 10_000


class InitExchange:
    """Stands between the kernel and libfuse until FUSE_INIT is answered.

    `fd` is libfuse's descriptor of the session. Between construction and `finish` its number leads
    to a socket that holds the request and takes the answer.
    """

    def __init__(self, fd: int) -> None:
        """Raises LiteMQError if the kernel does not begin with FUSE_INIT."""
        self._fd = fd
        self._kernel = os.dup(fd)
        request = without_offer(self._first_request())
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._ours.send(request)
            os.dup2(theirs.fileno(), fd, inheritable=False)

    def finish(self) -> None:
        """libfuse has answered: pass its answer on and give it the kernel's descriptor back."""
        answer = self._ours.recv(_READ_BYTES)
        os.dup2(self._kernel, self._fd, inheritable=False)
        os.write(self._kernel, answer)
        os.close(self._kernel)
        self._ours.close()

    def _first_request(self) -> bytes:
        waiting = select.poll()
        waiting.register(self._kernel, select.POLLIN)
        if not waiting.poll(_PATIENCE_MS):
            raise LiteMQError("the kernel does not begin the FUSE session; try again")
        return os.read(self._kernel, _READ_BYTES)


def without_offer(request: bytes) -> bytes:
    """The FUSE_INIT request without FUSE_AUTO_INVAL_DATA. Raises LiteMQError if it is another."""
    if len(request) < _FLAGS_OFFSET + _FLAGS.size or _HEADER.unpack_from(request)[1] != _FUSE_INIT:
        raise LiteMQError("the kernel's first FUSE request is not FUSE_INIT")
    changed = bytearray(request)
    (flags,) = _FLAGS.unpack_from(request, _FLAGS_OFFSET)
    _FLAGS.pack_into(changed, _FLAGS_OFFSET, flags & ~_FUSE_AUTO_INVAL_DATA)
    return bytes(changed)
