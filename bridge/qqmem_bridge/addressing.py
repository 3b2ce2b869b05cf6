"""Who may talk to the bot, and who is talking to it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from qqmem_bridge.messages import Incoming


@dataclass(frozen=True, slots=True)
class Doors:
    """Who is let in. Without anybody listed nobody is; what is denied is never let in."""

    groups: Collection[str] = ()
    users: Collection[str] = ()
    denied: Collection[str] = ()
    admins: Collection[str] = ()
    everybody: bool = False
    temporary: bool = False

    def let_in(self, message: Incoming) -> bool:
        """Whether the bridge has anything to do with a message."""
        if message.user_id == message.self_id or message.user_id in self.denied:
            return False
        if message.temporary and not self.temporary:
            return False
        return self.open_to(message.chat)

    def open_to(self, chat: str) -> bool:
        """Whether a chat is let in."""
        kind, _, number = chat.partition(":")
        if number in self.denied:
            return False
        if kind == "group":
            return self.everybody or number in self.groups
        return self.everybody or number in self.users or number in self.admins


@dataclass(frozen=True, slots=True)
class Names:
    """What the bot answers to. bots: other bots, which never address it."""

    names: Sequence[str] = ()
    bots: Collection[str] = field(default_factory=frozenset)


def addressed(message: Incoming, names: Names, *, quotes_bot: bool = False) -> bool:
    """Whether a message is said to the bot.

    In private all are. In a group those that @ the bot anywhere (not `@all`), quote one of its messages (quotes_bot),
    or begin with one of its names; but none of another bot.
    """
    if message.user_id in names.bots or message.user_id == message.self_id:
        return False
    if not message.in_group or quotes_bot:
        return True
    return message.self_id in message.ats or any(_begins(message.bare, name) for name in names.names)


def _begins(text: str, name: str) -> bool:
    """A name of letters must end as a word does; one in Chinese need not."""
    if not name or not text.casefold().startswith(name.casefold()):
        return False
    after = text[len(name) : len(name) + 1]
    return not (name[-1].isascii() and name[-1].isalnum() and after.isascii() and (after.isalnum() or after == "_"))
