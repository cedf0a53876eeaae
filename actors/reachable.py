"""Sockets of a node whose files somebody has deleted: they are made again, and it is told."""

from __future__ import annotations

from litemq import log
from litemq.errors import LiteMQError
from litemq.transport.sockets import Receiver


def stay_reachable(receiver: Receiver) -> None:
    """Look once. What can't be done now is tried at the next look."""
    try:
        if receiver.stay_reachable():
            log.get().warning(
                "a socket's file was deleted; made again", file=str(receiver.file),
                keep_out="cleaners of temporary folders",
            )  # fmt: skip
    except (LiteMQError, OSError) as error:
        log.get().debug("a socket's file can't be made", reason=str(error))
