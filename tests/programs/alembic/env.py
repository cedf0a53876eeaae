"""Alembic's environment: the database is `-x database=PATH`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import NullPool, create_engine

engine = create_engine(
    f"sqlite:///{context.get_x_argument(as_dictionary=True)['database']}", poolclass=NullPool
)
with engine.connect() as connection:
    context.configure(connection=connection, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
