"""Memories: what they are, where they come from, what happened to them, their vectors and words; recalls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _memory()
    _parts_of_memory()
    _spaces_and_choices()
    _recall()
    # One token is what stands between two spaces: the words are cut before.
    op.execute("CREATE VIRTUAL TABLE memory_fts USING fts5(places, words, tokenize = 'ascii')")
    op.execute("CREATE VIRTUAL TABLE memory_fts_vocab USING fts5vocab(memory_fts, row)")


def _memory() -> None:
    op.create_table(
        "memory",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.DateTime(), nullable=False),
        sa.Column("valid_to", sa.DateTime(), nullable=True),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("speaker_id", sa.Text(), nullable=False),
        sa.Column("speaker_name", sa.Text(), nullable=False),
        sa.Column("conversation", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("superseded_by", sa.Integer(), nullable=True),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("decodable", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_memory"),
        sqlite_autoincrement=True,
    )
    for column in ("owner_id", "group_id", "subject_id", "speaker_id", "conversation", "superseded_by"):
        op.create_index(f"ix_memory_{column}", "memory", [column])
    op.create_index("ix_memory_scope_kind_digest", "memory", ["scope", "kind", "digest"])
    op.create_index("ix_memory_state_id", "memory", ["state", "id"])


def _parts_of_memory() -> None:
    op.create_table(
        "memory_source",
        sa.Column("memory_id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        _of_memory("memory_source"),
        sa.PrimaryKeyConstraint("memory_id", "message_id", name="pk_memory_source"),
    )
    op.create_index("ix_memory_source_message_id", "memory_source", ["message_id"])
    op.create_table(
        "memory_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("memory_id", sa.Integer(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("old", sa.Text(), nullable=False),
        sa.Column("new", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        _of_memory("memory_event"),
        sa.PrimaryKeyConstraint("id", name="pk_memory_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_memory_event_memory_id", "memory_event", ["memory_id"])
    op.create_table(
        "memory_vector",
        sa.Column("memory_id", sa.Integer(), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        _of_memory("memory_vector"),
        sa.PrimaryKeyConstraint("memory_id", "space", name="pk_memory_vector"),
    )
    op.create_index("ix_memory_vector_space", "memory_vector", ["space"])


def _of_memory(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["memory_id"], ["memory.id"], name=f"fk_{table}_memory_id_memory", ondelete="CASCADE"
    )


def _spaces_and_choices() -> None:
    op.create_table(
        "memory_space",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("centre", sa.LargeBinary(), nullable=False),
        sa.Column("cohort_keys", sa.LargeBinary(), nullable=False),
        sa.Column("cohort_queries", sa.LargeBinary(), nullable=False),
        sa.Column("floor", sa.REAL(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_memory_space"),
    )
    op.create_table(
        "memory_tombstone",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_memory_tombstone"),
    )
    op.create_table(
        "memory_choice",
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("party", "choice", name="pk_memory_choice"),
    )
    op.create_table(
        "memory_point",
        sa.Column("conversation_id", sa.Text(), nullable=False),
        sa.Column("indexed_to", sa.Integer(), nullable=False),
        sa.Column("extracted_to", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversation.id"],
            name="fk_memory_point_conversation_id_conversation",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("conversation_id", name="pk_memory_point"),
    )


def _recall() -> None:
    op.create_table(
        "recall",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("turn_id", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("cue", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("memory_id", sa.Integer(), nullable=True),
        sa.Column("candidates", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["turn_id"], ["turn.id"], name="fk_recall_turn_id_turn", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_recall"),
    )
    op.create_index("ix_recall_turn_id", "recall", ["turn_id"])
    op.create_index("ix_recall_memory_id", "recall", ["memory_id"])


def downgrade() -> None:
    op.execute("DROP TABLE memory_fts_vocab")
    op.execute("DROP TABLE memory_fts")
    parts = "memory_source", "memory_event", "memory_vector", "memory_space", "memory_tombstone", "memory_choice"
    for table in ("recall", "memory_point", *parts, "memory"):
        op.drop_table(table)
