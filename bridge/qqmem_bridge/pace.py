"""How fast the bot may send. Pure: the time is handed in, in seconds that only go forward."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """gap: least seconds between two messages of a chat, plus up to `jitter`. per_minute, burst: of the account."""

    gap: float = 1.5
    jitter: float = 1.5
    per_minute: int = 20
    burst: int = 3


class Pace:
    """When the next message may go out."""

    def __init__(self, rates: Rates, chance: random.Random) -> None:
        self._rates = rates
        self._chance = chance
        self._ready: dict[str, float] = {}
        self._sent: deque[float] = deque(maxlen=max(rates.per_minute, rates.burst))
        self._windows = ((rates.per_minute, 60.0), (rates.burst, rates.burst * 60.0 / rates.per_minute))

    def chat_delay(self, chat: str, now: float) -> float:
        """Seconds until this chat may have the next message."""
        return max(0.0, self._ready.get(chat, now) - now)

    def account_delay(self, now: float) -> float:
        """Seconds until the account may send the next message."""
        ready = now
        for most, seconds in self._windows:
            if len(self._sent) >= most:
                ready = max(ready, self._sent[-most] + seconds)
        return ready - now

    def sent(self, chat: str, now: float) -> None:
        """A message goes out now."""
        self._sent.append(now)
        self._ready = {other: ready for other, ready in self._ready.items() if ready > now}
        self._ready[chat] = now + self._rates.gap + self._chance.uniform(0, self._rates.jitter)
