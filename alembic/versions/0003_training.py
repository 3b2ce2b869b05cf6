"""Runs of the training, and when the schedule began and last tried."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "training_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("born", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_training_run"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_training_run_state", "training_run", ["state"])
    op.create_table(
        "training_schedule",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("anchored_at", sa.DateTime(), nullable=False),
        sa.Column("tried_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_training_schedule"),
    )


def downgrade() -> None:
    op.drop_table("training_schedule")
    op.drop_table("training_run")
