"""The shapes of /api/messages."""

from __future__ import annotations

from pydantic import ConfigDict

from qqmem.api.wire import Message, Out, example


class FoundMessage(Message):
    """A stored message, and where it was said."""

    conversation: str


class FoundMessages(Out):
    """What was found. next: as `before`, the page of older ones."""

    model_config = ConfigDict(
        json_schema_extra=example(
            messages=[
                {
                    "type": "message",
                    "id": 41,
                    "role": "user",
                    "sender": {"id": "10001", "name": "会长", "role": "admin"},
                    "text": "小忆，今天读什么？",
                    "time": "2026-11-22T09:00:00Z",
                    "message_id": "5501",
                    "addressed": True,
                    "withdrawn": False,
                    "turn": 7,
                    "conversation": "group:20002",
                }
            ],
            next=41,
        )
    )
    messages: tuple[FoundMessage, ...]
    next: int | None = None
