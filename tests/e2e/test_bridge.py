"""QQ (the bench), the bridge and the service on the embedded model, each a program of its own: a talk with memory."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.soak import loaded
from tests.e2e.conftest import Service

pytestmark = pytest.mark.e2e

SHARED = Path(__file__).parents[3] / "shared"
BENCH, CHAT = SHARED / "bench/fake_napcat.py", SHARED / "data/group-chat-zh/team_chat_zh.json"
BOOKS, RUNNERS, TEAM = 20001, 20002, 20003
MING, HONG = 10001, 10002
REPLAYED, EVERY = 30, 10
"""Messages of the group chat, and of how many one is said to the bot."""


@dataclass
class Stage:
    """bench: the module. napcat: the fake QQ. service: has no bridge of its own."""

    bench: Any
    napcat: Any
    service: Service

    async def say(self, user: int, text: str, group: int | None = None) -> tuple[str, list[dict[str, Any]]]:
        """Say something to the bot in QQ, and see the reply come there. Returns it, and the memories that came in."""
        mid = await self.tell(user, text, group)
        where = f"private:{user}" if group is None else f"group:{group}"
        async with httpx.AsyncClient(base_url=self.service.url, trust_env=False) as http, asyncio.timeout(300):
            while (turn := await self.turn(http, where, mid)) is None:  # another process: nothing else tells
                await self.napcat.quiet(0.2)
            assert turn["outcome"] == "replied"
            begin = turn["reply"].strip().partition("\n")[0]
            await self.napcat.wait(lambda: any(begin in one.plain_text for one in self.napcat.sent), timeout=60)
            ids = [recall["chosen"] for recall in turn["recalls"] if "chosen" in recall]
            return turn["reply"], [(await http.get(f"/api/memories/{id}")).json() for id in ids]

    async def tell(self, user: int, text: str, group: int | None = None) -> str:
        if group is None:
            return str(await self.napcat.private_message(user, text, nickname=f"人{user}"))
        content = [self.bench.at(self.napcat.self_id), self.bench.text(f" {text}")]
        return str(await self.napcat.group_message(group, user, content, card=f"人{user}"))

    async def turn(self, http: httpx.AsyncClient, conversation: str, message_id: str) -> dict[str, Any] | None:
        """Which has answered a message, once it has ended."""
        page = (await http.get(f"/api/conversations/{conversation}/messages")).json()
        number = next((one.get("turn") for one in page.get("messages", ()) if one.get("message_id") == message_id), 0)
        return next((one for one in page.get("turns", ()) if one["id"] == number and "ended_at" in one), None)


@pytest.fixture
async def stage(service: Service, tmp_path: Path) -> AsyncIterator[Stage]:
    """All three, running."""
    if not BENCH.is_file():
        pytest.skip("the bench (../shared/bench/fake_napcat.py) is not here")
    service.environment |= {
        "QQMEM_CHAT__GROUP_POLICY": "addressed",
        "QQMEM_GENERATION__MAX_NEW_TOKENS": "32",
        "QQMEM_GENERATION__SEED": "1",
    }
    service.start()
    bench = loaded(BENCH)
    async with bench.FakeNapCat(token="t") as napcat, bridged(service, napcat, tmp_path):
        await napcat.wait_connected(timeout=60)
        yield Stage(bench, napcat, service)
    assert service.end() == 0


@asynccontextmanager
async def bridged(service: Service, napcat: Any, folder: Path) -> AsyncIterator[None]:
    """`qqmem-bridge run`."""
    settings = {
        "service": f"ws://127.0.0.1:{service.port}/ws/bridge",
        "data": str(folder / "bridge"),
        "napcat": {"url": napcat.ws_uri, "token": "t"},
        "allow": {"groups": [BOOKS, RUNNERS, TEAM], "users": [MING, HONG]},
        "pace": {"gap": 0, "jitter": 0, "per_minute": 6000, "burst": 1000},
        "merge": {"quiet": 0.1},
        "health": {"port": 0},
    }
    (folder / "bridge.yaml").write_text(json.dumps(settings), "utf-8")
    with (folder / "bridge.log").open("wb") as log:
        command = [sys.executable, "-m", "qqmem_bridge", "run", "--config", str(folder / "bridge.yaml")]
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        code = await process.wait()
    assert code == 0, (folder / "bridge.log").read_text("utf-8")


def has(memories: list[dict[str, Any]], word: str) -> bool:
    return any(word in memory["text"] for memory in memories)


async def test_a_person_is_remembered_across_groups_where_that_may_be(stage: Stage) -> None:
    told, _ = await stage.say(MING, "我对花生过敏，一点都不能吃。", BOOKS)
    assert told
    await stage.say(HONG, "跟你说，我家的猫叫年糕，今年三岁了。")
    _, memories = await stage.say(MING, "你还记得我对什么东西过敏吗？")  # said in a group, asked in private by the same
    assert has(memories, "花生")
    assert {memory["scope"] for memory in memories} == {f"member:{MING}@{BOOKS}"}
    reply, memories = await stage.say(MING, "我对什么东西过敏？", RUNNERS)  # another group does not know
    assert not has(memories, "花生")
    assert "花生" not in reply
    reply, memories = await stage.say(HONG, "我家的猫叫什么名字？", RUNNERS)  # nor what was said in private
    assert not has(memories, "年糕")
    assert "年糕" not in reply
    sent = len(stage.napcat.sent)
    await stage.tell(HONG, "/公开")
    await stage.napcat.wait(lambda: len(stage.napcat.sent) > sent, timeout=60)
    _, memories = await stage.say(HONG, "我家的猫叫什么名字？", BOOKS)  # unless who said it agrees
    assert has(memories, "年糕")


@pytest.mark.skipif(not CHAT.exists(), reason="the public group chat is not beside this checkout")
async def test_a_group_chat_is_stored_in_order_and_who_asks_is_answered(stage: Stage) -> None:
    said = json.loads(CHAT.read_text("utf-8"))["conversation_list"][:REPLAYED]
    people = {name: 60001 + n for n, name in enumerate(sorted({one["sender"] for one in said}))}
    ids, asked = [], []
    for n, one in enumerate(said):
        to_bot = n % EVERY == EVERY - 1
        text = stage.bench.text(one["content"])
        content = [stage.bench.at(stage.napcat.self_id), text] if to_bot else [text]
        mid = await stage.napcat.group_message(TEAM, people[one["sender"]], content, card=one["sender_name"])
        ids.append(str(mid))
        if to_bot:
            asked.append(str(mid))
            await stage.napcat.wait_sent(group_id=TEAM, count=len(asked), timeout=300)
    async with httpx.AsyncClient(base_url=stage.service.url, trust_env=False) as http, asyncio.timeout(60):
        while True:
            page = (await http.get(f"/api/conversations/group:{TEAM}/messages", params={"limit": 200})).json()
            people_said = [one for one in page["messages"] if one["role"] == "user"]
            if len(people_said) == REPLAYED:
                break
            await stage.napcat.quiet(0.2)
    assert [one["message_id"] for one in people_said] == ids
    assert [one["message_id"] for one in people_said if one["addressed"]] == asked
    assert [turn["outcome"] for turn in page["turns"]] == ["replied"] * len(asked)
