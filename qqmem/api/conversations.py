"""Routes to what was said: list, read, export and delete conversations, and stop a reply."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from qqmem.api import convert, wire
from qqmem.api.problems import documented
from qqmem.api.state import Admin, Chatter, Reader, TheChats, TheHistory, TheLimits
from qqmem.api.stream import Stream
from qqmem.history import History
from qqmem.records import Message

router = APIRouter(prefix="/api/conversations", tags=["conversations"], responses=documented(401, 403, 404, 422, 429))

Id = Annotated[wire.ConversationId, Path(examples=["private:10001"])]
Limit = Annotated[int, Query(ge=1, le=200, description="Most entries of the page.")]
BeforeConversation = Annotated[wire.ConversationId | None, Query(description="`next` of the page before.")]
BeforeMessage = Annotated[int | None, Query(ge=1, lt=2**63, description="`next` of the page before.")]
Trace = Annotated[
    bool,
    Query(description="With what was thought, and turns of which no message is left, such as superseded."),
]

_LINES = """{"type":"message","id":41,"role":"user","sender":{"id":"10001","name":"小明","role":""},"text":"你好", …}
{"type":"turn","id":7,"messages":[41],"outcome":"replied","reply":"你好呀！", …}
"""


@router.get("", response_model_exclude_none=True)
async def list_conversations(
    _: Reader, history: TheHistory, limit: Limit = 50, before: BeforeConversation = None
) -> wire.ConversationPage:
    """All conversations, the last updated first."""
    found = await history.conversations(limit, before)
    return wire.ConversationPage(
        conversations=tuple(wire.Conversation.model_validate(each) for each in found),
        next=found[-1].id if len(found) == limit else None,
    )


@router.get("/{id}", response_model_exclude_none=True)
async def get_conversation(id: Id, _: Reader, history: TheHistory) -> wire.Conversation:
    """One conversation."""
    return wire.Conversation.model_validate(await history.conversation(id))


@router.delete("/{id}", status_code=204)
async def delete_conversation(id: Id, _: Admin, chats: TheChats) -> None:
    """Stop its reply, and delete all that was said in it."""
    await chats.delete(id)


@router.post("/{id}/cancel")
async def cancel_reply(id: Id, _: Chatter, history: TheHistory, chats: TheChats) -> wire.Cancelled:
    """Stop the reply that is being written."""
    await history.conversation(id)
    return wire.Cancelled(cancelled=await chats.cancel(id))


@router.get("/{id}/messages", response_model_exclude_none=True)
async def list_messages(
    id: Id, _: Reader, history: TheHistory, limit: Limit = 50, before: BeforeMessage = None, trace: Trace = False
) -> wire.MessagePage:
    """What was said, the newest page first, and how the replies came about."""
    messages = await history.messages(id, limit, before)
    turns = await history.turns(id, {message.turn for message in messages if message.turn is not None})
    if trace and messages:
        began = await history.turns_since(id, messages[0].id, before)
        turns = sorted({turn.id: turn for turn in (*turns, *began)}.values(), key=lambda turn: turn.id)
    return wire.MessagePage(
        messages=tuple(wire.Message.model_validate(message) for message in messages),
        turns=tuple(convert.to_turn(turn, thinking=trace) for turn in turns),
        next=messages[0].id if len(messages) == limit else None,
    )


@router.get(
    "/{id}/export",
    response_class=StreamingResponse,
    responses={200: {"description": "JSON lines.", "content": {"application/jsonl": {"example": _LINES}}}},
)
async def export_conversation(id: Id, _: Admin, history: TheHistory, limits: TheLimits) -> Stream:
    """Everything that is stored of it, thoughts included, as JSON lines: the messages, then the turns."""
    await history.conversation(id)
    return Stream(_lines(history, id), limits.send_seconds, "application/jsonl")


async def _lines(history: History, conversation: str) -> AsyncGenerator[bytes]:
    async with aclosing(history.export(conversation)) as records:
        async for record in records:
            shape: wire.Message | wire.Turn
            if isinstance(record, Message):
                shape = wire.Message.model_validate(record)
            else:
                shape = convert.to_turn(record, thinking=True)
            yield f"{wire.to_json(shape)}\n".encode()
