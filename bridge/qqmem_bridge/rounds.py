"""A cap on talk between bots: each answers the other at once, without end. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass

AT_ONCE = 5.0
"""Seconds within which a bot takes up what it is told; people read first, most of the time."""
REST = 600.0
"""Seconds for which it is left alone then."""


@dataclass(slots=True)
class _Duet:
    """rounds: how often `user` was quick, one after another. taken: so it was since the bot has last talked."""

    replied: float
    user: str = ""
    rounds: int = 0
    taken: bool = False


class Rounds:
    """most: in how many rounds one after another somebody may be as quick as a bot; 0 is no limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._duets: dict[str, _Duet] = {}
        self._resting: dict[tuple[str, str], float] = {}

    def replied(self, chat: str, now: float) -> None:
        """The bot has said something."""
        duet = self._duets.setdefault(chat, _Duet(now))
        duet.replied, duet.taken = now, False

    def is_too_much(self, chat: str, user: str, now: float) -> bool:
        """Whether what somebody says there now is to be left without an answer. To be asked of every message, once."""
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        if (chat, user) in self._resting:
            return True
        duet = self._duets.get(chat)
        if duet is None or not self._most:
            return False
        if now - duet.replied > AT_ONCE:
            del self._duets[chat]
            return False
        if user != duet.user:
            duet.user, duet.rounds, duet.taken = user, 0, False
        duet.rounds += not duet.taken
        duet.taken = True
        if duet.rounds <= self._most:
            return False
        del self._duets[chat]
        self._resting[chat, user] = now + REST
        return True
