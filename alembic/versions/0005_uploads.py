"""Files that were uploaded, and the messages that have them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "upload",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("extension", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("touched_at", sa.DateTime(), nullable=False),
        sa.Column("claimed_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_upload"),
    )
    op.create_table(
        "attachment",
        sa.Column("message", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("upload", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["message.id"], name="fk_attachment_message_message", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["upload"], ["upload.id"], name="fk_attachment_upload_upload", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message", "n", name="pk_attachment"),
    )
    op.create_index("ix_attachment_upload", "attachment", ["upload"])


def downgrade() -> None:
    op.drop_table("attachment")
    op.drop_table("upload")
