"""What becomes of a run while it goes on: stored, and told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from qqmem.errors import DatabaseError
from qqmem.runs import Run, Runs, Stage, State

log = logging.getLogger(__name__)

Told = Callable[[Run, Mapping[str, Any]], None]
"""Told of each change of a run, and of its progress."""


class Journal:
    """Of one run. progress: the last that was heard of what it is at."""

    def __init__(self, runs: Runs, run: Run, told: Told) -> None:
        self.run = run
        self.progress: Mapping[str, Any] = {}
        self._runs = runs
        self._told = told

    async def note(self, **values: Any) -> None:
        """Set some of its fields."""
        self.run = await self._runs.note(self.run.id, **values)
        self._told(self.run, self.progress)

    async def at(self, stage: Stage) -> None:
        """It is at this stage now."""
        self.progress = {"stage": stage}
        await self.note(stage=stage)

    async def count(self, **figures: Mapping[str, Any]) -> None:
        """Add to its metrics."""
        await self.note(metrics={**self.run.metrics, **figures})

    async def end(self, state: State, error: str = "") -> None:
        """It has ended so."""
        log.log(logging.INFO if state == "done" else logging.WARNING, "run %d: %s. %s", self.run.id, state, error)
        with suppress(DatabaseError):  # the next start will find it running, and end it
            self.run = await self._runs.end(self.run.id, state, error)
        self._told(self.run, {})

    def hear(self, progress: Mapping[str, Any]) -> None:
        """So far it is."""
        self.progress = progress
        self._told(self.run, progress)

    def hear_export(self, stage: str, done: int, of: int) -> None:
        """As hear, before there is a trainer."""
        self.hear({"stage": stage, "step": done, "steps": of})
