"""Whether the bot answers a message, and whether a message may interrupt it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import time
from typing import Literal

from qqmem.records import Incoming, Message
from qqmem.settings import Chat, Group

Policy = Literal["addressed", "model", "probability"]

_LIKE_ALL = Group()


@dataclass(frozen=True, slots=True)
class Manners:
    """policy: what is answered in groups. chance: draws from [0, 1). is_muted: where the bot may not talk."""

    chat: Chat
    policy: Callable[[], Policy]
    chance: Callable[[], float]
    is_muted: Callable[[str], bool]

    def is_addressed(self, message: Incoming) -> bool:
        """By the platform, an @ or a name; that it quotes the bot is for others to say."""
        at = f"[CQ:at,qq={self.chat.self_id}"
        is_at = bool(self.chat.self_id) and any(at + end in message.text for end in ("]", ","))
        text = message.text.casefold()
        return message.addressed or is_at or any(name.casefold() in text for name in self.chat.names)

    def wants_answer(self, message: Incoming, *, addressed: bool) -> bool:
        if message.context_only or self.is_muted(message.conversation):
            return False
        if is_private(message.conversation) or addressed:
            return True
        group = self.chat.groups.get(message.conversation.partition(":")[2], _LIKE_ALL)
        hours = self.chat.quiet_hours if group.quiet_hours is None else group.quiet_hours
        if hours and _is_within(message.time.astimezone().time(), hours):
            return False
        match self.policy():
            case "model":
                return True
            case "probability":
                own = group.reply_probability
                return self.chance() < (self.chat.reply_probability if own is None else own)
            case "addressed":
                return False

    def interrupts(self, message: Message, answered: Sequence[Message]) -> bool:
        """Whether it stops a turn that answers these."""
        if is_private(message.conversation):
            return True
        match self.chat.interrupt:
            case "always":
                return True
            case "never":
                return False
            case "addressed":
                return message.addressed or not any(one.addressed for one in answered)


def _is_within(now: time, hours: str) -> bool:
    """hours: as of settings.Hours, the last minute not among them; they may go over midnight."""
    start, end = (time.fromisoformat(each) for each in hours.split("-"))
    return start <= now < end if start <= end else now >= start or now < end


def is_private(conversation: str) -> bool:
    """By its id, `private:<qq>` or `group:<gid>`."""
    return conversation.startswith("private:")
