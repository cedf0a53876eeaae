"""A log reaches the disk: by the helper thread, and its owner hears if that failed.

Always true: after a failed sync the log is opened anew, for what the kernel had may be gone.
"""

from __future__ import annotations

from collections.abc import Callable

from litemq.actors.failing import FILE_ERRORS
from litemq.actors.helper_thread import HelperThread
from litemq.errors import LiteMQError
from litemq.txlog.store import DatabaseLog


def sync_log(
    helper: HelperThread, logged: DatabaseLog, failed: Callable[[BaseException], object]
) -> None:
    """Begin; `failed` is called in the actor's own loop."""
    try:
        work = logged.begin_sync()
    except FILE_ERRORS as error:
        failed(error)
        return

    def done(result: object) -> None:
        if isinstance(result, LiteMQError):
            failed(result)

    helper.call(work, done)
