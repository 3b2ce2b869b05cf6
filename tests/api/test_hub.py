"""How the hub joins, hands out, and treats those who come, go and are slow."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from qqmem.api.hub import MOST_WAITING, TICK, Hub
from qqmem.chat import Recalled
from qqmem.memory.types import Change
from qqmem.records import Recall
from tests.api.dashboard import Dashboard, take_all
from tests.api.house import MESSAGE, RUN, House, look_in


@pytest.fixture
def house() -> House:
    return House()


async def test_text_of_a_tick_is_one_frame_for_each_turn_and_channel(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.begin(1)
        house.begin(2)
        house.write(1, "想一想", "think")
        house.write(2, "你好", start=0)
        house.write(1, "在的", start=3)
        house.write(2, "呀", start=2)
        house.tick()
        assert await take_all(watcher, dashboard) == 1, "one batch"
    tokens = [frame for frame in dashboard.frames if frame["type"] == "token"]
    assert [(f["turn"], f["channel"], f["text"], f["n"], f["conversation"]) for f in tokens] == [
        (1, "think", "想一想", 3, "private:1"),
        (2, "reply", "你好呀", 3, "private:2"),
        (1, "reply", "在的", 5, "private:1"),
    ]


async def test_what_is_written_after_a_recall_comes_after_it(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.begin(1)
        house.write(1, "前", "think")
        house.hub.publish(Recalled(1, Recall("前", "none", None)))
        house.write(1, "后", "think", start=1)
        house.tick()
        await take_all(watcher, dashboard)
    kinds = [frame.get("text", frame["type"]) for frame in dashboard.frames[1:]]
    assert kinds == ["turn.start", "前", "recall", "后"]


async def test_every_watcher_gets_the_very_same_text(house: House) -> None:
    with ExitStack() as stack:
        watchers = [stack.enter_context(house.hub.watch()) for _ in range(3)]
        for watcher in watchers:
            await take_all(watcher, Dashboard())
        house.tick()
        shown = [await watcher.take() for watcher in watchers]
        house.begin(1)
        house.tick()
        batches = [await watcher.take() for watcher in watchers]
    assert len({id(batch) for batch in batches}) == 1, "encoded once"
    assert len(set(shown)) == 1


# ---- those who come, and those who are slow ---------------------------------------------------------------------


async def test_who_comes_in_the_middle_is_shown_all_that_goes_on(house: House) -> None:
    house.hub.trained(RUN, {"stage": "stage1", "step": 4, "steps": 9, "loss": {"total": 0.5}})
    house.hub.released("0002")
    house.stats.running, house.stats.waiting = 2, 1
    house.begin(1)
    house.write(1, "想", "think")
    house.hub.publish(Recalled(1, Recall("想", "none", None)))
    house.write(1, "说", start=1)
    house.begin(2)
    house.end(2)
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
    (snapshot,) = dashboard.frames
    assert snapshot.pop("time")
    assert snapshot.pop("run")["id"] == 3
    assert snapshot == {
        "type": "snapshot",
        "turns": [
            {
                "turn": 1,
                "conversation": "private:1",
                "messages": [1],
                "text": {"think": "想", "reply": "说"},
                "n": 2,
                "recalls": [{"cue": "想", "candidates": [], "mode": "none"}],
            }
        ],
        "engine": {"running": 2, "waiting": 1},
        "health": {"status": "ok", "model": "m", "version": "1"},
        "progress": {"run": 3, "stage": "stage1", "step": 4, "steps": 9, "loss": {"total": 0.5}},
        "release": "0002",
    }


async def test_who_does_not_read_skips_and_is_then_right_again(house: House) -> None:
    with house.hub.watch() as slow, house.hub.watch() as keen:
        dashboards = {slow: await look_in(house, slow), keen: await look_in(house, keen)}
        house.begin(1)
        for n in range(MOST_WAITING + 10):
            house.write(1, "字", start=n)
            house.tick()
            await take_all(keen, dashboards[keen])
        assert len(slow) == 0, "what it would have read late is let go"
        assert dashboards[slow].missed == []
        await take_all(slow, dashboards[slow])
        house.write(1, "尾", start=200)
        house.tick()
        await take_all(slow, dashboards[slow])
        assert dashboards[slow].texts == {1: {"reply": "字" * (MOST_WAITING + 10) + "尾"}}
        await take_all(keen, dashboards[keen])
        skipped = [frame["type"] for frame in dashboards[keen].frames if frame["type"] != "snapshot"]
        assert dashboards[slow].missed == [len(skipped)]
        house.end(1)
        house.tick()
        for watcher, dashboard in dashboards.items():
            await take_all(watcher, dashboard)
            assert dashboard.turns == {}
        assert dashboards[keen].missed == []


async def test_as_many_batches_wait_as_may_and_with_one_more_all_are_let_go(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        for id in range(1, MOST_WAITING + 2):
            house.hub.remembered(Change("added", (id,)))
            house.tick()
            assert len(watcher) == (id if id <= MOST_WAITING else 0)
        for _ in range(2):  # it asks for a snapshot, and gets it
            await take_all(watcher, dashboard)
            house.tick()
        assert dashboard.missed == [MOST_WAITING + 2], "the load of the engine was told, too"


def growth(talk: Callable[[int], None]) -> int:
    """Bytes by which four hundred turns more than two hundred take more memory."""
    talk(100)
    tracemalloc.start()
    talk(100)
    before, _ = tracemalloc.get_traced_memory()
    talk(400)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before


async def test_who_never_reads_takes_no_memory(house: House) -> None:
    def talk(rounds: int) -> None:
        for turn in range(rounds):
            house.begin(turn)
            house.write(turn, "字" * 20)
            house.tick()
            house.end(turn)
            house.tick()

    with house.hub.watch() as dead:
        await look_in(house, dead)
        assert growth(talk) < 20_000, "some bytes a turn would be more than that"
        assert len(dead) <= MOST_WAITING


async def test_without_watchers_it_takes_no_memory_and_needs_no_tick(house: House) -> None:
    def talk(rounds: int) -> None:
        for turn in range(rounds):
            house.begin(turn)
            house.write(turn, "字" * 20)
            house.hub.heard(MESSAGE)
            house.end(turn)

    assert growth(talk) < 20_000


async def test_without_watchers_nothing_is_kept_of_what_has_ended(house: House) -> None:
    for turn in range(5):
        house.begin(turn)
        house.write(turn, "字")
        house.hub.heard(MESSAGE)
        house.end(turn)
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
    assert [frame["type"] for frame in dashboard.frames] == ["snapshot"]
    assert dashboard.turns == {}


async def test_leaving_twice_and_being_closed_twice_is_leaving_once(house: House) -> None:
    with house.hub.watch() as watcher, house.hub.watch() as other:
        dashboard = await look_in(house, other)
        waiting = asyncio.create_task(watcher.take())
        await asyncio.sleep(0)
        watcher.close()
        watcher.close()
        assert await waiting is None
        assert await watcher.take() is None
        house.begin(1)
        house.tick()
        await take_all(other, dashboard)
        assert list(dashboard.turns) == [1], "the other watches on"


async def test_cancelling_who_waits_loses_nothing(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        waiting = asyncio.create_task(watcher.take())
        await asyncio.sleep(0)
        house.begin(1)
        house.tick()
        waiting.cancel()
        await asyncio.wait([waiting])
        await take_all(watcher, dashboard)
        assert list(dashboard.turns) == [1]


# ---- ticking -----------------------------------------------------------------------------------------------------


async def test_it_ticks_only_while_somebody_watches() -> None:
    house, slept = House(), asyncio.Queue[float]()
    may = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        slept.put_nowait(seconds)
        await may.acquire()

    house.hub = Hub(house.look, clock=lambda: house.time, sleep=sleep)
    running = asyncio.create_task(house.hub.run())
    await asyncio.sleep(0)
    assert slept.empty()
    with house.hub.watch() as watcher:
        assert await slept.get() == TICK
        asking = asyncio.create_task(watcher.take())
        await asyncio.sleep(0)
        may.release()
        batch = await asking
        assert batch is not None
        assert json.loads(batch)[0]["type"] == "snapshot"
        await slept.get()
    may.release()
    for _ in range(3):
        await asyncio.sleep(0)
    assert slept.empty()
    running.cancel()
    await asyncio.wait([running])


async def test_a_bug_closes_those_who_watch_and_the_next_ones_are_served(caplog: pytest.LogCaptureFixture) -> None:
    house, slept = House(), asyncio.Queue[float]()

    async def sleep(seconds: float) -> None:
        slept.put_nowait(seconds)
        await asyncio.sleep(0)

    house.hub = Hub(house.look, clock=lambda: house.time, sleep=sleep)
    running = asyncio.create_task(house.hub.run())
    with house.hub.watch() as watcher:
        await slept.get()
        house.hub.remembered(Change("broken", (1,)))  # type: ignore[arg-type]
        assert await watcher.take() is None
    with house.hub.watch() as watcher:
        assert await watcher.take() is not None
    running.cancel()
    await asyncio.wait([running])
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.ERROR] == [True]
