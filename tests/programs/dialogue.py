"""An application's end of the dialogue on stdin and stdout (README.md here)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

#: what `read` answers with: how many rows, and the newest
COUNT_AND_NEWEST = "SELECT count(*), (SELECT mark FROM entry ORDER BY id DESC LIMIT 1) FROM entry"


def serve(
    *, write: Callable[[str], Any], read: Callable[[], Any], renew: Callable[[], Any]
) -> None:
    """Answer until stdin ends. Like a request's handler, it tells of an error and goes on."""
    for line in sys.stdin:
        word, _, mark = line.strip().partition(" ")
        try:
            if word == "write":
                write(mark)
                answer: dict[str, Any] = {"ok": None}
            elif word == "read":
                answer = {"ok": list(read())}
            else:
                renew()
                answer = {"ok": None}
        except Exception as error:  # noqa: BLE001 - whatever the program's library raises
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
