"""Messages that come in a rush are handed on together. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rush:
    """quiet: seconds without a further message of the same person that end it; longest, most: that end it anyhow."""

    quiet: float = 1.5
    longest: float = 8.0
    most: int = 10


class Hold(Generic[T]):
    """What one chat said since somebody began to talk to the bot. Others' messages keep their place among them."""

    def __init__(self, rush: Rush) -> None:
        self._rush = rush
        self._kept: list[T] = []
        self._user = ""
        self._until = 0.0
        self._end = 0.0

    @property
    def due(self) -> float | None:
        """When to take(); None while nothing is held."""
        return min(self._until, self._end) if self._kept else None

    def add(self, item: T, user: str, now: float, *, begins: bool) -> list[T]:
        """What is to be handed on at once: the item itself unless it begins a rush or comes into one.

        begins: it is said to the bot, and may be the first of several.
        """
        if not self._kept and not begins:
            return [item]
        if not self._kept:
            self._user, self._end, self._until = user, now + self._rush.longest, now + self._rush.quiet
        self._kept.append(item)
        if user == self._user:
            self._until = now + self._rush.quiet
        return self.take() if len(self._kept) >= self._rush.most else []

    def typing(self, user: str, now: float) -> None:
        """The person goes on writing."""
        if self._kept and user == self._user:
            self._until = now + self._rush.quiet

    def take(self) -> list[T]:
        """All that is held, in order."""
        kept, self._kept = self._kept, []
        return kept
