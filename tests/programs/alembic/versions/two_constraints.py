"""What SQLite can't alter in place: the table is copied, dropped and renamed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "two"
down_revision = "one"


def upgrade() -> None:
    with op.batch_alter_table("entry") as batch:
        batch.add_column(sa.Column("kind", sa.Text, nullable=False, server_default="plain"))
        batch.create_unique_constraint("one_of_each", ["mark"])


def downgrade() -> None:
    with op.batch_alter_table("entry") as batch:
        batch.drop_constraint("one_of_each")
        batch.drop_column("kind")
