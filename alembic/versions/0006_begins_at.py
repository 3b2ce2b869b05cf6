"""Conversations that were begun anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("conversation", sa.Column("begins_at", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("conversation", "begins_at")
