"""What is left of runs that have ended: deleted, but for the files of one that may be gone on with."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qqmem import run_folders
from qqmem.errors import NotFound, QqmemError
from qqmem.lessons import read_origin, unchanged
from qqmem.memory.memories import Memories
from qqmem.runs import Run, Runs

log = logging.getLogger(__name__)

_STILL_GOOD = timedelta(days=2)
"""How long the files of an interrupted run are kept to go on with."""


class Leftover:
    """Of the runs whose folders are in `folder`. changing: held by whoever makes, moves or deletes one."""

    def __init__(self, runs: Runs, memories: Memories, folder: Path) -> None:
        self.changing = asyncio.Lock()
        self._runs = runs
        self._memories = memories
        self._folder = folder

    async def tidy(self) -> None:
        """Delete the files of runs that nobody will go on with: of a memory that was forgotten, above all."""
        async with self.changing:
            left = await self.unfinished()
            for id in await asyncio.to_thread(run_folders.ids, self._folder):
                with suppress(NotFound):
                    run = await self._runs.find(id)
                    if run.state != "running" and run != left:
                        await self._clean(run)

    async def watch(self) -> None:
        """Tidy whenever something was forgotten or corrected. Never returns; cancel it."""
        while True:
            await self._memories.dropped.wait()
            self._memories.dropped.clear()
            try:
                await self.tidy()
            except QqmemError as error:  # the database, most likely; the schedule tidies, too
                log.warning("the files of training runs are not tidied now: %s", error)

    async def unfinished(self) -> Run | None:
        """The last run, if it was interrupted and its files may be gone on with: nothing in them was forgotten."""
        run = next((one for one in await self._runs.page(2) if one.state != "running"), None)
        if run is None or run.state != "interrupted" or run.started_at < datetime.now(UTC) - _STILL_GOOD:
            return None
        origin = await asyncio.to_thread(read_origin, self._folder / str(run.id))
        return run if origin and await unchanged(self._memories.store, origin) == set(origin) else None

    async def _clean(self, run: Run) -> None:
        folder = self._folder / str(run.id)
        try:
            await asyncio.to_thread(run_folders.clean, folder, keep_result=run.state == "refused")
        except OSError as error:
            log.warning("the files of training run %d cannot be deleted: %s", run.id, error.strerror)
