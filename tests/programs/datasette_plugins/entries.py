"""A Datasette plugin with the routes of the dialogue; Datasette keeps the connections."""

from __future__ import annotations

from typing import Any

from datasette import Response, hookimpl

COUNT_AND_NEWEST = "SELECT count(*), (SELECT mark FROM entry ORDER BY id DESC LIMIT 1) FROM entry"


async def write(datasette: Any, request: Any) -> Response:
    mark = request.url_vars["mark"]
    await datasette.get_database().execute_write("INSERT INTO entry (mark) VALUES (?)", [mark])
    return Response.json({"ok": None})


async def read(datasette: Any) -> Response:
    found = await datasette.get_database().execute(COUNT_AND_NEWEST)
    return Response.json({"ok": list(found.first())})


@hookimpl
def register_routes() -> list[Any]:
    return [(r"^/write/(?P<mark>.+)$", write), (r"^/read$", read)]


@hookimpl
def skip_csrf(scope: dict[str, Any]) -> bool:
    """No browser is here."""
    return bool(scope["path"].startswith("/write/"))
