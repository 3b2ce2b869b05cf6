"""Who is who in a chat: display names, robots, and whether a message is the bot's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

from qqmem_bridge.errors import CallError, CallFailed
from qqmem_bridge.messages import Incoming, identifier
from qqmem_bridge.store import Store
from qqmem_bridge.transport import Transport

T = TypeVar("T")

_MOST = 5000
"""Names and robots that are kept in mind."""


class People:
    """What is asked of QQ's side is asked once."""

    def __init__(self, transport: Transport, store: Store) -> None:
        self._transport = transport
        self._store = store
        self._called: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._robots: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def met(self, message: Incoming) -> None:
        """Somebody has said something under this name."""
        _keep(self._called, (message.chat, message.user_id), message.card or message.name)

    def name(self, chat: str, user: str) -> str:
        """The last known one in a chat; empty if there is none."""
        return self._called.get((chat, user), "")

    async def quotes_bot(self, message: Incoming) -> bool:
        """Whether what a message quotes was said by the bot."""
        quoted = message.quoted or ""
        if await self._store.is_ours(message.chat, quoted):
            return True
        if not message.in_group or await self._store.seen(message.chat, quoted):
            return False
        try:
            found = await self._transport.call("get_msg", {"message_id": quoted})
        except CallError:
            return False
        return isinstance(found, Mapping) and identifier(found.get("user_id")) == message.self_id

    async def is_robot(self, message: Incoming) -> bool:
        """Whether QQ says that a member is one of its official bots: those answer each other without end."""
        key = (message.chat, message.user_id)
        if key not in self._robots:
            group = message.chat.partition(":")[2]
            try:
                found = await self._transport.call(
                    "get_group_member_info", {"group_id": group, "user_id": message.user_id}
                )
            except CallFailed:
                found = None
            except CallError:
                return False
            _keep(self._robots, key, isinstance(found, Mapping) and found.get("is_robot") is True)
        return self._robots[key]


def _keep(kept: OrderedDict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _MOST:
        kept.popitem(last=False)
