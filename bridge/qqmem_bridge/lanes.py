"""Work of one chat in order, chats beside each other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from qqmem_bridge.counters import hidden

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


class Lanes:
    """A lane for each chat that has something to do. put() never waits."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Work]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def put(self, chat: str, work: Work) -> None:
        lane = self._lanes.get(chat)
        if lane is not None:
            lane.append(work)
            return
        self._lanes[chat] = deque([work])
        task = asyncio.create_task(self._run(chat))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, chat: str) -> None:
        lane = self._lanes[chat]
        try:
            while lane:
                work = lane.popleft()
                try:
                    await work()
                except Exception:
                    log.exception("%s: a step failed", hidden(chat))
        finally:
            del self._lanes[chat]

    async def close(self) -> None:
        """Cancel everything; what is stored comes again at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
