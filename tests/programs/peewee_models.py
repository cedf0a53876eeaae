"""Peewee's models.

peewee_models.py DATABASE connected      one connection for the life of the process
peewee_models.py DATABASE per-request    a connection for each request
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from dialogue import COUNT_AND_NEWEST, serve
from peewee import Model, SqliteDatabase, TextField

database = SqliteDatabase(sys.argv[1])


class Entry(Model):
    mark = TextField()

    class Meta:
        database = database


def request() -> Any:
    return database.connection_context() if sys.argv[2] == "per-request" else nullcontext()


def write(mark: str) -> None:
    with request(), database.atomic():
        Entry.create(mark=mark)


def read() -> Any:
    with request():
        return database.execute_sql(COUNT_AND_NEWEST).fetchone()


def renew() -> None:
    database.close()
    database.connect()


if __name__ == "__main__":
    serve(write=write, read=read, renew=renew)
