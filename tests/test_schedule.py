"""When training begins by itself: next_run, and the loop with a clock of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from qqmem.db import Database
from qqmem.errors import Conflict, DatabaseError
from qqmem.runs import Runs
from qqmem.schedule import Last, Rule, Schedule, next_run

SHANGHAI = ZoneInfo("Asia/Shanghai")
MONDAY = datetime(2026, 11, 23, 10, 30, tzinfo=SHANGHAI)
RULE = Rule(hour=2, first_delay=2, interval=3, zone=SHANGHAI)

TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
ZONES = st.sampled_from([None, SHANGHAI, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")])
RULES = st.builds(Rule, st.integers(0, 23), st.integers(0, 30), st.integers(1, 30), ZONES)


def at(day: int, hour: int = 2) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=SHANGHAI)


def test_the_first_run_is_some_days_after_the_anchor_and_the_next_after_the_last() -> None:
    assert next_run(MONDAY, MONDAY, None, RULE) == at(25)
    assert next_run(at(25, 3), MONDAY, Last(at(25)), RULE) == at(28)
    assert next_run(at(25, 3), MONDAY, Last(at(25), interrupted=True), RULE) == at(26)


def test_what_was_missed_is_made_up_for_at_once() -> None:
    assert next_run(at(29, 15), MONDAY, None, RULE) == at(29, 15)
    assert next_run(at(29, 15), MONDAY, Last(at(25)), RULE) == at(29, 15)


def test_without_a_delay_the_first_run_is_at_the_next_such_hour() -> None:
    rule = Rule(hour=2, first_delay=0, interval=3, zone=SHANGHAI)
    assert next_run(at(23, 1), at(23, 1), None, rule) == at(23)
    assert next_run(MONDAY, MONDAY, None, rule) == at(24)


@given(TIMES, TIMES, st.none() | TIMES, st.booleans(), RULES)
def test_a_run_is_never_in_the_past_and_at_its_hour_or_now(
    now: datetime, anchor: datetime, last: datetime | None, interrupted: bool, rule: Rule
) -> None:
    due = next_run(now, anchor, Last(last, interrupted) if last else None, rule)
    assert due >= now
    if due != now:
        local = due.astimezone(rule.zone)
        # An hour that the clock leaves out in spring is the one after it.
        assert (local.hour - rule.hour) % 24 in (0, 1)
        assert (local.minute, local.second) == (0, 0)


@given(TIMES, st.none() | TIMES, RULES, st.lists(st.timedeltas(timedelta(0), timedelta(days=9)), max_size=6))
def test_asking_again_changes_nothing(
    anchor: datetime, last: datetime | None, rule: Rule, restarts: list[timedelta]
) -> None:
    since = Last(last) if last else None
    due = next_run(anchor, anchor, since, rule)
    now = anchor
    for pause in restarts:
        now += pause
        assert next_run(now, anchor, since, rule) == max(now, due)


@given(TIMES, RULES)
def test_runs_are_as_many_days_apart_as_the_rule_says(anchor: datetime, rule: Rule) -> None:
    first = next_run(anchor, anchor, None, rule)
    second = next_run(first, anchor, Last(first), rule)
    days = second.astimezone(rule.zone).date() - first.astimezone(rule.zone).date()
    assert days.days == rule.interval


class Clock:
    """Goes on only when somebody sleeps. until: when the test has seen enough."""

    def __init__(self, now: datetime, until: datetime) -> None:
        self.now = now
        self.until = until
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        if self.now > self.until:
            self.over.set()
            await asyncio.Event().wait()


async def begun(
    db: Database,
    since: datetime,
    until: datetime,
    *,
    rule: Rule | None = RULE,
    fault: Callable[[datetime], None] = lambda _: None,
    tidied: list[datetime] | None = None,
) -> list[datetime]:
    """When runs begin in a program that starts and ends at these times."""
    clock, found = Clock(since, until), list[datetime]()

    async def trigger() -> None:
        found.append(clock.now)
        fault(clock.now)

    async def tidy() -> None:
        if tidied is not None:
            tidied.append(clock.now)

    schedule = Schedule(Runs(db), rule, trigger, tidy, now=lambda: clock.now, sleep=clock.sleep)
    running = asyncio.create_task(schedule.run())
    await asyncio.wait([running, asyncio.create_task(clock.over.wait())], return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    await asyncio.wait([running])
    return found


async def test_runs_begin_by_the_rule(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        assert await begun(db, MONDAY, at(30)) == [at(25), at(28)]


async def test_restarts_change_nothing(tmp_path: Path) -> None:
    found = []
    for hour in range(0, 150, 13):
        async with Database.open(tmp_path) as db:
            since = MONDAY + timedelta(hours=hour)
            found += await begun(db, since, since + timedelta(hours=12.5))
    assert found == [at(25), at(28)]


async def test_a_service_that_is_off_at_night_trains_in_the_morning(tmp_path: Path) -> None:
    found = []
    for day in range(23, 30):
        async with Database.open(tmp_path) as db:
            found += await begun(db, at(day, 9), at(day, 18))
    assert found == [at(25, 9), at(28, 9)]


async def test_what_cannot_begin_is_not_tried_at_once_again(tmp_path: Path) -> None:
    def refuse(_: datetime) -> None:
        raise Conflict("Nothing is remembered yet.")

    async with Database.open(tmp_path) as db:
        assert await begun(db, MONDAY, at(30), fault=refuse) == [at(25), at(28)]


async def test_an_interrupted_run_is_followed_by_another_the_next_day(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        await begun(db, MONDAY, at(25, 3))
        run = await Runs(db).begin("schedule", "mark")
        await Runs(db).end(run.id, "interrupted")
        assert await begun(db, at(25, 4), at(26, 5)) == [at(26)]


async def test_without_a_rule_it_only_tidies_up(tmp_path: Path) -> None:
    tidied = list[datetime]()
    async with Database.open(tmp_path) as db:
        assert await begun(db, MONDAY, at(30), rule=None, tidied=tidied) == []
    assert len(tidied) > 24
    assert max(b - a for a, b in pairwise(tidied)) <= timedelta(hours=1)


async def test_a_database_that_fails_for_a_while_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(now: datetime) -> None:
        if now < at(26):
            raise DatabaseError("The disk is full.")

    async with Database.open(tmp_path) as db:
        assert await begun(db, MONDAY, at(30), fault=fail) == [at(25), at(28)]
