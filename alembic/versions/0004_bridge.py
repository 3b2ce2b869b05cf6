"""Bridges, and what they are to send; by which bridge a message came, and whether an answer is owed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bridge",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_bridge"),
    )
    op.create_table(
        "mute",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("conversation_id", name="pk_mute"),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bridge", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("turn_id", sa.Integer(), nullable=True),
        sa.Column("message", sa.Integer(), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message_ids", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["message"], ["message.id"], name="fk_delivery_message_message", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["turn_id"], ["turn.id"], name="fk_delivery_turn_id_turn", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_delivery_bridge_state_id", "delivery", ["bridge", "state", "id"])
    op.create_index("ix_delivery_conversation_id", "delivery", ["conversation_id"])
    op.create_index("ix_delivery_message", "delivery", ["message"])
    op.create_index("ix_delivery_turn_id", "delivery", ["turn_id"])
    op.create_table(
        "sent",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("message", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["message.id"], name="fk_sent_message_message", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("conversation_id", "message_id", name="pk_sent"),
    )
    op.create_index("ix_sent_message", "sent", ["message"])
    op.add_column("message", sa.Column("bridge", sa.Text(), nullable=False, server_default=""))
    op.add_column("message", sa.Column("owed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_message_owed", "message", ["owed"], sqlite_where=sa.text("owed"))


def downgrade() -> None:
    op.drop_index("ix_message_owed", "message")
    op.drop_column("message", "owed")
    op.drop_column("message", "bridge")
    op.drop_table("sent")
    op.drop_table("delivery")
    op.drop_table("mute")
    op.drop_table("bridge")
