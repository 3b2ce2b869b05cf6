"""Memories and messages for tests, a few words each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from qqmem.history import History
from qqmem.memory.scope import said_in
from qqmem.memory.types import NewMemory
from qqmem.records import Incoming, Message, Sender, TurnEnd

NOW = datetime(2026, 11, 22, 17, 0, tzinfo=UTC)


def told(text: str, scope: str = "group:7", **fields: Any) -> NewMemory:
    """A fact told by hand."""
    given: dict[str, Any] = {"kind": "fact", "scope": scope, "text": text, "valid_from": NOW}
    return NewMemory(**given | fields)


def words_of(message: Message) -> NewMemory:
    """What somebody said, as it is."""
    return fact_of(message.text, message, kind="message", speaker_name=message.sender.name)


def fact_of(text: str, *messages: Message, **fields: Any) -> NewMemory:
    """A fact from what somebody said."""
    first = messages[0]
    given = {"subject_id": first.sender.id, "speaker_id": first.sender.id, "conversation": first.conversation}
    sources = tuple(message.id for message in messages)
    scope = str(said_in(first.conversation, first.sender.id))
    return told(text, scope, **given | {"sources": sources} | fields)


async def said(
    history: History, text: str, sender: str = "10001", conversation: str = "group:7", message_id: str | None = None
) -> Message:
    message, _ = await history.add(Incoming(conversation, Sender(sender, "小明"), text, NOW, message_id=message_id))
    return message


async def answered(history: History, text: str, *messages: Message) -> Message:
    """The bot's reply in a turn that answers these messages."""
    turn = await history.begin_turn(messages[0].conversation, [message.id for message in messages])
    reply = await history.end_turn(turn, TurnEnd("replied", reply=text))
    assert reply is not None
    return reply
