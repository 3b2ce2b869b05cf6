"""What the bot does besides talking: reactions and pokes. Whether they succeed is not important."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from qqmem_bridge.counters import hidden
from qqmem_bridge.errors import CallError
from qqmem_bridge.messages import identifier
from qqmem_bridge.transport import Transport

log = logging.getLogger(__name__)

MOST = 5
"""Actions of one reply that are done."""


async def act(transport: Transport, chat: str, actions: Sequence[Mapping[str, Any]]) -> None:
    """Do them, one after another; those of a kind that is not known are left out."""
    kind, _, number = chat.partition(":")
    for action in actions[:MOST]:
        emoji, message = identifier(action.get("emoji_id")), identifier(action.get("message_id"), negative=True)
        user = identifier(action.get("user_id"))
        if action.get("type") == "EMOJI_LIKE" and emoji and message and kind == "group":
            await react(transport, chat, message, emoji)
        elif action.get("type") == "POKE" and kind == "group" and user:
            await _call(transport, chat, "group_poke", {"group_id": number, "user_id": user})
        elif action.get("type") == "POKE" and kind == "private":
            await _call(transport, chat, "friend_poke", {"user_id": number})


async def react(transport: Transport, chat: str, message: str, emoji: str, *, on: bool = True) -> None:
    """Put an emoji under a message, or take it away. emoji: QQ's number of a face, or a code point."""
    await _call(transport, chat, "set_msg_emoji_like", {"message_id": message, "emoji_id": emoji, "set": on})


async def _call(transport: Transport, chat: str, action: str, params: Mapping[str, Any]) -> None:
    try:
        await transport.call(action, params)
    except CallError as error:
        log.info("%s: %s failed (%s)", hidden(chat), action, type(error).__name__)
