"""The table as it was first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "one"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "entry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("mark", sa.Text, nullable=False),
    )
    op.bulk_insert(
        sa.table("entry", sa.column("mark", sa.Text)),
        [{"mark": f"a.{number:06d}."} for number in range(1, 2001)],
    )


def downgrade() -> None:
    op.drop_table("entry")
