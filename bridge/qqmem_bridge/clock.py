"""Time, as a thing that is handed in."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Protocol


class Clock(Protocol):
    """Where the program reads the time and waits."""

    def now(self) -> float:
        """Seconds that only go forward; for durations."""
        ...

    def time(self) -> float:
        """Seconds since 1970; for what is stored."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Backoff:
    """Delays between attempts, in seconds: 1, 2, 4, ... 30, each give or take a half. reset() after a success."""

    def __init__(self, random: random.Random, first: float = 1.0, most: float = 30.0) -> None:
        self._random = random
        self._first = first
        self._most = most
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        delay = self._next * self._random.uniform(0.5, 1.5)
        self._next = min(self._next * 2, self._most)
        return min(delay, self._most)
