"""SQLAlchemy's ORM, a session for each request, one engine for the life of the process.

sqlalchemy_orm.py DATABASE queue-pool      the engine as it is by default
sqlalchemy_orm.py DATABASE pre-ping        with pool_pre_ping
sqlalchemy_orm.py DATABASE null-pool       a connection for each request
sqlalchemy_orm.py DATABASE invalidating    a connection that failed is thrown away
"""

from __future__ import annotations

import sys
from typing import Any

from dialogue import COUNT_AND_NEWEST, serve
from sqlalchemy import Engine, ExceptionContext, NullPool, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    mark: Mapped[str]


def make_engine(path: str, setup: str) -> Engine:
    url = f"sqlite:///{path}"
    if setup == "pre-ping":
        return create_engine(url, pool_pre_ping=True)
    if setup == "null-pool":
        return create_engine(url, poolclass=NullPool)
    engine = create_engine(url)
    if setup == "invalidating":

        @event.listens_for(engine, "handle_error")
        def throw_away(context: ExceptionContext) -> None:
            said = str(context.original_exception)
            if "disk I/O error" in said or "readonly database" in said or "unable to open" in said:
                context.is_disconnect = True

    return engine


def main() -> None:
    engine = make_engine(*sys.argv[1:])

    def write(mark: str) -> None:
        with Session(engine) as session:
            session.add(Entry(mark=mark))
            session.commit()

    def read() -> Any:
        with Session(engine) as session:
            return session.execute(text(COUNT_AND_NEWEST)).one()

    serve(write=write, read=read, renew=engine.dispose)


if __name__ == "__main__":
    main()
