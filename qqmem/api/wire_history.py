"""The shapes of /api/messages."""

from __future__ import annotations

from pydantic import ConfigDict

from qqmem.api.wire import MESSAGE, Message, Out, example


class FoundMessage(Message):
    """A stored message, and where it was said."""

    conversation: str


class FoundMessages(Out):
    """What was found. next: as `before`, the page of older ones."""

    model_config = ConfigDict(json_schema_extra=example(messages=[{**MESSAGE, "conversation": "group:20002"}], next=41))
    messages: tuple[FoundMessage, ...]
    next: int | None = None
