"""The same work on many things, some of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def abreast(
    work: Callable[[T], Awaitable[R]], things: Sequence[T], most: int, tell: Callable[[int, int], None]
) -> list[R]:
    """What `work` makes of each, in their order, `most` at a time. tell: how many are done, of how many.

    If one fails, the others are cancelled, and have ended when its error is raised.
    """
    room, done = asyncio.Semaphore(most), 0

    async def one(thing: T) -> R:
        nonlocal done
        async with room:
            result = await work(thing)
        done += 1
        tell(done, len(things))
        return result

    tell(0, len(things))
    tasks = [asyncio.create_task(one(thing)) for thing in things]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
