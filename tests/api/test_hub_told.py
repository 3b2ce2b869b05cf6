"""What the hub tells besides turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qqmem.api.hub import LOOK_SECONDS, PROGRESS_SECONDS, TICK
from qqmem.api.wire_bridge import BridgeConnectedFrame, BridgeStatusFrame
from qqmem.api.wire_live import MOST_IDS
from qqmem.api.wire_system import Health
from qqmem.chat import Token, TurnEnded
from qqmem.memory.types import Change
from tests.api.house import MESSAGE, RUN, House, frames_of, look_in


@pytest.fixture
def house() -> House:
    return House()


async def test_messages_are_told_as_they_come(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.hub.heard(MESSAGE)
        (frame,) = await frames_of(house, watcher, dashboard)
    assert frame == {
        "type": "message",
        "conversation": "private:1",
        "id": 41,
        "role": "user",
        "sender": {"id": "1", "name": "小明", "role": ""},
        "text": "你好",
        "time": "2026-11-22T09:00:00Z",
        "message_id": "m-1",
        "addressed": False,
        "withdrawn": False,
    }


async def test_memories_are_told_by_number(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.hub.remembered(Change("added", (1, 2), "user:1"))
        house.hub.remembered(Change("forgotten", tuple(range(MOST_IDS + 50))))
        one, many = await frames_of(house, watcher, dashboard)
    assert one == {"type": "memory.added", "ids": [1, 2], "count": 2, "scope": "user:1"}
    assert (many["type"], len(many["ids"]), many["count"]) == ("memory.forgotten", MOST_IDS, MOST_IDS + 50)


async def test_a_run_is_told_at_each_change_and_its_progress_now_and_then(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.hub.trained(RUN, {"stage": "stage1"})
        (frame,) = await frames_of(house, watcher, dashboard)
        assert (frame["type"], frame["run"]["id"], frame["run"]["stage"]) == ("training.run", 3, "stage1")
        told = []
        for step in range(1, 41):  # a step at each tick
            house.hub.trained(
                RUN, {"stage": "stage1", "step": step, "steps": 40, "loss": {"total": 1.0}, "done": False}
            )
            told += await frames_of(house, watcher, dashboard)
        progress = [frame for frame in told if frame["type"] == "training.progress"]
        assert 40 * TICK / PROGRESS_SECONDS * 0.7 <= len(progress) <= 40 * TICK / PROGRESS_SECONDS
        assert progress[0] == {
            "type": "training.progress",
            "run": 3,
            "stage": "stage1",
            "step": 4,
            "steps": 40,
            "loss": {"total": 1.0},
        }
        house.hub.trained(RUN, {"stage": "stage1", "step": 40})
        house.hub.trained(replace(RUN, state="done", release="0001"), {})
        house.hub.released("0001")
        house.hub.released(None)
        *_, done, release, base = await frames_of(house, watcher, dashboard, 0.5)
        assert done["run"]["state"] == "done"
        assert (release, base) == ({"type": "training.release", "release": "0001"}, {"type": "training.release"})
        assert "training.progress" not in [f["type"] for f in await frames_of(house, watcher, dashboard, 0.5)]


async def test_load_and_health_are_told_when_they_change_and_once_a_second_at_most(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.begin(1)
        house.stats.running = 1
        told = []
        for n in range(30):
            house.write(1, "字", start=n)
            told += await frames_of(house, watcher, dashboard)
        assert [frame for frame in told if frame["type"] == "engine"] == [
            {"type": "engine", "running": 1, "waiting": 0, "tokens_s": 15.0}
        ]
        house.health = Health(status="failed", model="m", version="1", reason="It has failed.")
        (health, _) = await frames_of(house, watcher, dashboard, LOOK_SECONDS)
        assert health == {"type": "health", "health": house.health.model_dump(exclude_none=True)}
        rest = [await frames_of(house, watcher, dashboard, LOOK_SECONDS) for _ in range(5)]
        assert [frame["tokens_s"] for frames in rest for frame in frames] == [0.0], "told once"


async def test_the_rate_counts_tokens_and_not_the_pieces_in_which_their_text_comes(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.begin(1)
        for n in (10, 30):
            house.hub.publish(Token(1, "reply", "字", n))
        (*_, engine) = await frames_of(house, watcher, dashboard, 2.0)
    assert engine["tokens_s"] == 15.0


async def test_the_end_of_a_turn_that_failed_says_why(house: House) -> None:
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        house.hub.publish(TurnEnded(None, "private:1", "failed", error="The model has failed.", code="model_failed"))
        (frame,) = await frames_of(house, watcher, dashboard)
    assert (frame["outcome"], "turn" in frame) == ("failed", False)
    assert frame["error"] == {"code": "model_failed", "message": "The model has failed."}


async def test_a_bridge_is_seen_until_it_is_gone(house: House) -> None:
    house.hub.bridged(BridgeConnectedFrame(bridge="qq", self_id="1", connected=True))
    house.hub.bridged(BridgeStatusFrame(bridge="qq", napcat=True, online=False, queued=2, counters={"sent": 7}))
    status = {"napcat": True, "online": False, "queued": 2, "counters": {"sent": 7}}
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        assert dashboard.frames[0]["bridges"] == [{"bridge": "qq", "self_id": "1", "status": status}]
        gone = BridgeConnectedFrame(bridge="qq", self_id="1", connected=False)
        house.hub.bridged(gone)
        assert await frames_of(house, watcher, dashboard) == [gone.model_dump()]
    assert house.hub.bridges == ()
    with house.hub.watch() as watcher:
        assert "bridges" not in (await look_in(house, watcher)).frames[0]


async def test_the_rate_is_not_taken_over_the_time_when_nobody_watched(house: House) -> None:
    with house.hub.watch() as watcher:
        await look_in(house, watcher)
    house.begin(1)
    house.write(1, "字" * 50)
    house.time += 1000
    with house.hub.watch() as watcher:
        dashboard = await look_in(house, watcher)
        assert "tokens_s" not in dashboard.frames[0]["engine"], "it is not known yet"
        house.write(1, "字" * 30, start=50)
        (*_, engine) = await frames_of(house, watcher, dashboard, 2.0)
    assert engine["tokens_s"] == 15.0
