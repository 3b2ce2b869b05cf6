"""The tables of training, beside those of db.py; what the rows mean is the business of runs.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON
from sqlalchemy.orm import Mapped, mapped_column

from qqmem.db import Base


class TrainingRunRow(Base):
    """One run of the training. pid, born: the group of processes that works for it, while it does."""

    __tablename__ = "training_run"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    actor: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    stage: Mapped[str] = mapped_column(default="")
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")
    release: Mapped[str] = mapped_column(default="")
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    mark: Mapped[str]
    pid: Mapped[int | None]
    born: Mapped[str] = mapped_column(default="")


class TrainingScheduleRow(Base):
    """The one schedule. anchored_at: when it was first seen. tried_at: when it last began, or tried to begin, a run."""

    __tablename__ = "training_schedule"

    id: Mapped[int] = mapped_column(primary_key=True)
    anchored_at: Mapped[datetime]
    tried_at: Mapped[datetime | None]
