"""The tables of the memory, beside those of db.py; what the rows mean is the store's business.

Full text lies in `memory_fts`, made by the migration: an FTS5 table whose rowid is the memory's id, with the words of
the searchable memories and of nothing else.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from qqmem.db import Base

FTS = "memory_fts"
"""Begins the names of all tables that FTS5 makes; they are not in the metadata."""


class MemoryRow(Base):
    """Something remembered. When it is deleted the row stays, without text.

    digest: of the normalised text, for its owner. owner_id, group_id: of the scope, "" if it has none.
    """

    __tablename__ = "memory"
    __table_args__ = (
        Index(None, "scope", "kind", "digest"),
        Index(None, "state", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    scope: Mapped[str]
    owner_id: Mapped[str] = mapped_column(index=True)
    group_id: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]
    digest: Mapped[str]
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime | None]
    subject_id: Mapped[str] = mapped_column(index=True)
    speaker_id: Mapped[str] = mapped_column(index=True)
    speaker_name: Mapped[str]
    conversation: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    superseded_by: Mapped[int | None] = mapped_column(index=True)
    pinned: Mapped[bool]
    hits: Mapped[int]
    used_at: Mapped[datetime | None]
    decodable: Mapped[str]
    created_at: Mapped[datetime]


class MemorySourceRow(Base):
    """A message that a memory comes from. An imported memory may cite messages that are not here."""

    __tablename__ = "memory_source"

    memory_id: Mapped[int] = mapped_column(ForeignKey("memory.id", ondelete="CASCADE"), primary_key=True)
    message_id: Mapped[int] = mapped_column(primary_key=True, index=True)


class MemoryEventRow(Base):
    """One change of a memory."""

    __tablename__ = "memory_event"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    memory_id: Mapped[int] = mapped_column(ForeignKey("memory.id", ondelete="CASCADE"), index=True)
    event: Mapped[str]
    old: Mapped[str] = mapped_column(default="")
    new: Mapped[str] = mapped_column(default="")
    actor: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class MemoryVectorRow(Base):
    """A memory in a vector space, float32 and little-endian. Only searchable memories have any."""

    __tablename__ = "memory_vector"

    memory_id: Mapped[int] = mapped_column(ForeignKey("memory.id", ondelete="CASCADE"), primary_key=True)
    space: Mapped[str] = mapped_column(primary_key=True, index=True)
    vector: Mapped[bytes]


class MemorySpaceRow(Base):
    """What belongs to a vector space."""

    __tablename__ = "memory_space"

    id: Mapped[str] = mapped_column(primary_key=True)
    dim: Mapped[int]
    centre: Mapped[bytes]
    cohort_keys: Mapped[bytes]
    cohort_queries: Mapped[bytes]
    floor: Mapped[float]


class MemoryTombstoneRow(Base):
    """A text that its owner had forgotten: never stored again. The digest is of owner and text."""

    __tablename__ = "memory_tombstone"

    digest: Mapped[str] = mapped_column(primary_key=True)


class MemoryChoiceRow(Base):
    """What a person (`user:<qq>`) or a group (`group:<gid>`) has chosen."""

    __tablename__ = "memory_choice"

    party: Mapped[str] = mapped_column(primary_key=True)
    choice: Mapped[str] = mapped_column(primary_key=True)


class MemoryPointRow(Base):
    """How far a conversation has been remembered: ids of messages."""

    __tablename__ = "memory_point"

    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"), primary_key=True)
    indexed_to: Mapped[int]
    extracted_to: Mapped[int]
