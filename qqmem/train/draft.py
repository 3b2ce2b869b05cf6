"""A text while it is put together, and what of it is cut when it is too long. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Draft:
    """A text while it is put together. head: a system prompt. context: what may be cut, from its beginning."""

    head: list[int]
    context: list[int]
    tail: list[int]
    parts: list[str]
    keep_from: int = 0
    """Tokens of the tail that may not be cut."""

    def add(self, ids: Sequence[int], part: str = "", *, vital: bool = False) -> int:
        """Write on. Returns the place of the last token in the tail. vital: nothing up to here is ever cut."""
        self.tail += ids
        self.parts += [part] * len(ids)
        if vital:
            self.keep_from = len(self.tail)
        return len(self.tail) - 1

    def fit(self, most: int) -> int:
        """Cut to `most` tokens: the far end of the context first, then the end of the turn, then the system prompt.

        Returns how many tokens come before the tail.
        """
        over = len(self.head) + len(self.context) + len(self.tail) - most
        del self.context[: max(over, 0)]
        over = len(self.head) + len(self.context) + len(self.tail) - most
        kept = max(len(self.tail) - max(over, 0), self.keep_from)
        del self.tail[kept:], self.parts[kept:]
        over = len(self.head) + len(self.context) + len(self.tail) - most
        del self.head[max(len(self.head) - max(over, 0), 0) :]
        return len(self.head) + len(self.context)
