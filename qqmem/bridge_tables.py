"""The tables of bridges, beside those of db.py; what the rows mean is the business of deliveries.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from qqmem.db import Base


class BridgeRow(Base):
    """A bridge that has said hello. seq: the last of its frames that is stored."""

    __tablename__ = "bridge"

    name: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(default=0)


class DeliveryRow(Base):
    """What a bridge is to send. message: of the bot; none if a command was answered. payload: empty once it is over.

    state: waiting, dropped (too old), or the outcome that the bridge has told: sent, failed, unknown.
    """

    __tablename__ = "delivery"
    # AUTOINCREMENT: a bridge ignores the ids that it has seen.
    __table_args__ = (Index(None, "bridge", "state", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    bridge: Mapped[str]
    conversation_id: Mapped[str] = mapped_column(index=True)
    turn_id: Mapped[int | None] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), index=True)
    message: Mapped[int | None] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(default="waiting")
    reason: Mapped[str] = mapped_column(default="")
    message_ids: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class SentRow(Base):
    """The platform's ids of a message of the bot, which may have been sent in parts."""

    __tablename__ = "sent"

    conversation_id: Mapped[str] = mapped_column(primary_key=True)
    message_id: Mapped[str] = mapped_column(primary_key=True)
    message: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), index=True)


class MuteRow(Base):
    """A group in which the bot may not talk. until: none if nobody knows."""

    __tablename__ = "mute"

    conversation_id: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime | None]
