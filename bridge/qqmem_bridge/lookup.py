"""Whether a message that nobody knows of has been sent: it is looked for in the chat's history."""

from __future__ import annotations

from collections.abc import Mapping

from qqmem_bridge.errors import CallError
from qqmem_bridge.messages import data, identifier, plain, segments_of
from qqmem_bridge.store import Part, Store
from qqmem_bridge.transport import Transport

_CLOCKS = 120.0
"""Seconds by which the clocks of two machines may differ."""


async def find(transport: Transport, store: Store, chat: str, part: Part, given: float) -> str | None:
    """The id of the bot's message that is this part, and none of those it knows.

    given: when it was given to QQ's side, seconds since 1970.
    """
    kind, _, number = chat.partition(":")
    action, key = ("get_group_msg_history", "group_id") if kind == "group" else ("get_friend_msg_history", "user_id")
    try:
        answer = await transport.call(action, {key: number, "count": 20})
    except CallError:
        return None
    messages = answer.get("messages") if isinstance(answer, Mapping) else None
    known = await store.sent_ids(chat)
    for message in reversed(messages if isinstance(messages, list) else []):
        if not isinstance(message, Mapping) or str(message.get("user_id")) != str(message.get("self_id")):
            continue
        message_id = identifier(message.get("message_id"), negative=True)
        sent = message.get("time")
        late = isinstance(sent, int | float) and sent < given - _CLOCKS
        if message_id and message_id not in known and not late and _is(message.get("message"), part):
            return message_id
    return None


def _is(message: object, part: Part) -> bool:
    segments = list(segments_of(message))
    if part.folded:
        return any(segment["type"] in ("forward", "node") for segment in segments)
    found = plain([segment for segment in segments if data(segment)])
    return "".join(found.split()) == "".join(part.text.split())
