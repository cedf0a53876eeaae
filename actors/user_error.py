"""What went wrong in a user's file, in one line: the kind, the message, and where in that file."""

from __future__ import annotations

import traceback

#: no message is longer (characters)
MAX_CHARACTERS = 500


def described(error: BaseException) -> str:
    """Kind and message on one line, whatever the error's own `__str__` does."""
    try:
        text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception:  # noqa: BLE001 - a user's code, called while an error of it is told
        text = "(it can't be shown)"
    kind = type(error).__name__
    return f"{kind}: {text}"[:MAX_CHARACTERS] if text else kind


def place(error: BaseException, file: str) -> str:
    """The deepest line of `file` that the error went through, as `PATH:LINE`.

    Of another file where `file` had no part in it; "" where nothing is known.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    # the first frame is ours: the one that called
    found = own[-1] if own else frames[-1] if len(frames) > 1 else None
    return f"{found.filename}:{found.lineno}" if found is not None else ""
