"""The bridge and the real service, with a model that recites: they meet at the wire only."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from qqmem_bridge.bridge import Bridge
from qqmem_bridge.napcat import reach
from tests.api.conftest import Service, Stage, make_settings, running
from tests.bridge.harness import ANN, GROUP, FakeService, FastClock, Scene


async def test_a_conversation_in_private_and_in_a_group(bench: Any, tmp_path: Path) -> None:
    stage = Stage(lambda said: '在的。\n\n什么事？<action>{"type": "POKE", "user_id": "10001"}</action>')
    async with (
        running(make_settings(tmp_path / "service"), stage) as service,
        bench.FakeNapCat(token="t") as napcat,
    ):
        plan = Scene(napcat, FakeService(), tmp_path / "bridge", FastClock(), bench.transport)
        url = f"ws://127.0.0.1:{service.port}/ws/bridge"
        settings = plan.settings.model_copy(update={"service": url, "token": None})
        clock, chance = FastClock(), random.Random(1)
        bridge = Bridge(settings, reach(settings, clock, chance=chance), clock, chance)
        task = asyncio.create_task(bridge.run())
        try:
            await napcat.wait_connected()
            await napcat.private_message(ANN, "在吗")
            assert (await napcat.wait_sent(user_id=ANN)).plain_text == "在的。"
            assert (await napcat.wait_sent(user_id=ANN, count=2)).plain_text == "什么事？"
            await napcat.wait_call("friend_poke")
            mid = await napcat.group_message(GROUP, ANN, [bench.at(napcat.self_id), bench.text("在吗")], card="小明")
            first = await napcat.wait_sent(group_id=GROUP)
            assert first.plain_text == "在的。"
            await napcat.wait_sent(group_id=GROUP, count=2)
            await napcat.group_message(GROUP, ANN, [bench.reply(first.message_id), bench.text("那个")])
            await napcat.wait_sent(group_id=GROUP, count=4)  # a quote of the bot counts as addressed
            await napcat.recall(mid)
            async with asyncio.timeout(10):
                while not await _withdrawn(service, str(mid)):
                    pass
            counted = bridge.counters.all()
            assert (counted["sent"], counted["failed"], counted["unknown"]) == (3, 0, 0)
            assert (counted["service_errors"], counted["malformed"]) == (0, 0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _withdrawn(service: Service, message_id: str) -> bool:
    answer = await service.http.get(f"/api/conversations/group:{GROUP}/messages")
    return [one["withdrawn"] for one in answer.json()["messages"] if one.get("message_id") == message_id] == [True]
