"""The tables of uploads, beside those of db.py; what the rows mean is the business of uploads.py."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from qqmem.db import Base


class UploadRow(Base):
    """A file by its content. touched_at: last uploaded. claimed_at: when the last message that has it was stored."""

    __tablename__ = "upload"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    extension: Mapped[str]
    size: Mapped[int]
    touched_at: Mapped[datetime]
    claimed_at: Mapped[datetime | None]


class AttachmentRow(Base):
    """The n-th upload of a message."""

    __tablename__ = "attachment"

    message: Mapped[int] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    upload: Mapped[str] = mapped_column(ForeignKey("upload.id", ondelete="CASCADE"), index=True)
