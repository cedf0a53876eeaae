"""What went wrong in a handler of the mount, as the errno that the kernel is told.

Always true: what nobody has foreseen is EIO for that one call, and told once with its traceback;
the mount, and all who work in it, go on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from litemq import log
from litemq.fs.poll_loop import ClosedResourceError

P = ParamSpec("P")
R = TypeVar("R")

_told: set[tuple[str, type[Exception]]] = set()


def answer(error: Exception, call: str) -> Exception:
    """What the handler of `call` raises instead; to be called where `error` is being handled."""
    if isinstance(error, FUSEError | ClosedResourceError):
        return error
    if isinstance(error, OSError):
        return FUSEError(error.errno or errno.EIO)
    if (call, type(error)) not in _told:
        _told.add((call, type(error)))
        log.get().error("a call in the mount failed", call=call, exc_info=True)
    return FUSEError(errno.EIO)


def errnos(
    handler: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Errors of the handler become the errno the kernel is told."""

    @wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the edge to the kernel, which wants an answer
            raise answer(error, handler.__name__) from None

    return guarded
