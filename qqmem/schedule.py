"""When the training begins by itself. It is anchored in the database: a restart changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

from qqmem.errors import QqmemError
from qqmem.runs import Runs

log = logging.getLogger(__name__)

_LONGEST_SLEEP = 3600.0
"""Seconds. The clock of the machine may be set meanwhile, and a machine may sleep."""


@dataclass(frozen=True, slots=True)
class Rule:
    """hour: of the day, in the zone (None: the machine's). first_delay, interval: in days."""

    hour: int
    first_delay: int
    interval: int
    zone: tzinfo | None = None

    def at(self, since: datetime, days: int) -> datetime:
        """The hour of the day that is so many days after an aware time."""
        day = since.astimezone(self.zone).date() + timedelta(days=days)
        there = datetime.combine(day, time(self.hour))
        aware = there.astimezone() if self.zone is None else there.replace(tzinfo=self.zone)
        return aware.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Last:
    """at: when the schedule last tried. interrupted: what it began did not come to its end."""

    at: datetime
    interrupted: bool = False


def next_run(now: datetime, anchor: datetime, last: Last | None, rule: Rule) -> datetime:
    """When the next run is to begin: later than now, or now if its time has passed.

    Without a last one, first_delay days after the anchor; else interval days after it, or a day if it was interrupted.
    """
    if last is None:
        due = rule.at(anchor, rule.first_delay)
        if due < anchor:  # first_delay is 0, and the hour has passed on the first day
            due = rule.at(anchor, rule.first_delay + 1)
    else:
        due = rule.at(last.at, 1 if last.interrupted else rule.interval)
    return max(now, due)


class Schedule:
    """Begins runs. `run` never returns; cancel it.

    rule: None begins none. trigger: begins a run; raises a QqmemError if it cannot. tidy: called once an hour or more
    often. now, sleep: the clock.
    """

    def __init__(
        self,
        runs: Runs,
        rule: Rule | None,
        trigger: Callable[[], Awaitable[object]],
        tidy: Callable[[], Awaitable[None]],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._runs = runs
        self._rule = rule
        self._trigger = trigger
        self._tidy = tidy
        self._now = now
        self._sleep = sleep

    async def next(self) -> datetime | None:
        """When the next run is to begin; None if there is no rule."""
        if self._rule is None:
            return None
        now = self._now()
        anchor, tried = await self._runs.anchor(now)
        newest = await self._runs.newest()
        interrupted = newest is not None and newest.state == "interrupted"
        return next_run(now, anchor, Last(tried, interrupted) if tried else None, self._rule)

    async def run(self) -> None:
        """Begin each run when its time has come."""
        while True:
            try:
                wait = await self._step()
            except QqmemError as error:  # the database, most likely: it may come back
                log.warning("the schedule of the training waits: %s", error)
                wait = _LONGEST_SLEEP
            await self._sleep(wait)

    async def _step(self) -> float:
        """Begin what is due. Returns the seconds after which there may be something to do."""
        await self._tidy()
        due = await self.next()
        wait = _LONGEST_SLEEP if due is None else (due - self._now()).total_seconds()
        if wait > 0:
            return min(wait, _LONGEST_SLEEP)
        # First of all: whatever becomes of it, it is not tried again at once.
        await self._runs.tried(self._now())
        try:
            await self._trigger()
        except QqmemError as error:
            log.info("no training now: %s", error)
        return 0.0
