"""The route that finds messages, whichever conversation they were said in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from qqmem.api import wire
from qqmem.api.conversations import BeforeMessage, Limit
from qqmem.api.problems import documented
from qqmem.api.state import Reader, TheHistory
from qqmem.api.wire_history import FoundMessage, FoundMessages
from qqmem.api.wire_memory import MemoryId
from qqmem.errors import InvalidRequest

router = APIRouter(prefix="/api/messages", tags=["conversations"], responses=documented(401, 403, 422, 429))

_MOST_WORDS = 10
Words = Annotated[
    wire.Text | None,
    Query(max_length=200, description="Words that the message has, as they stand, in any case of letters."),
]
Ids = Annotated[
    tuple[MemoryId, ...], Query(max_length=200, description="Instead of q: just these, of those there are.")
]
Where = Annotated[wire.ConversationId | None, Query(description="With q: only there.", examples=["group:20002"])]


@router.get("", response_model_exclude_none=True)
async def find_messages(
    _: Reader,
    history: TheHistory,
    q: Words = None,
    ids: Ids = (),
    conversation: Where = None,
    limit: Limit = 50,
    before: BeforeMessage = None,
) -> FoundMessages:
    """Search in what was said, the newest first."""
    words = (q or "").split()
    if bool(words) == bool(ids):
        raise InvalidRequest("Give either q, with at least one word, or ids.")
    if len(words) > _MOST_WORDS:
        raise InvalidRequest(f"Search for at most {_MOST_WORDS} words at once.")
    if ids:
        return FoundMessages(messages=tuple(map(FoundMessage.model_validate, await history.some(ids))))
    found = await history.search(words, limit, before, conversation=conversation)
    return FoundMessages(
        messages=tuple(map(FoundMessage.model_validate, found)), next=found[-1].id if len(found) == limit else None
    )
