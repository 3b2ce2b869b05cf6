"""Pictures from QQ to the service's store, over both real programs, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from qqmem_bridge.settings import Merge, Napcat
from tests.api.conftest import Service, Stage, make_settings, running
from tests.bridge.harness import ANN, GROUP, FakeService, FastClock, Scene
from tests.bridge.test_pictures import PNG, Files, files

GIF = b"GIF89a123"
pytestmark = pytest.mark.parametrize("bench", ["onebot"], indirect=True)


@asynccontextmanager
async def both(bench: Any, folder: Path, stage: Stage, **settings: Any) -> AsyncIterator[tuple[Scene, Service, Files]]:
    """A bridge and the real service, and NapCat's own server of files."""
    async with (
        running(make_settings(folder / "service", chat={"merge_window": 0.5}), stage) as service,
        bench.FakeNapCat(token="napcat-token") as napcat,
        files() as server,
    ):
        played = FakeService()
        played.port = service.port
        own = Napcat(url=napcat.ws_uri, token=SecretStr("napcat-token"), files=(server.at,))
        plan = Scene(napcat, played, folder / "bridge", FastClock(), bench.transport, **settings)
        plan.settings = plan.settings.model_copy(update={"token": None, "napcat": own})
        try:
            await plan.start()
            yield plan, service, server
        finally:
            await plan.kill()


async def stored(service: Service, conversation: str, count: int) -> list[str]:
    """What people have said there, once it is so much."""
    async with asyncio.timeout(20):
        while True:
            said = [one.text for one in (await service.stored(conversation))[0] if one.role == "user"]
            if len(said) >= count:
                return said
            await asyncio.sleep(0.02)  # so that the database is not all that runs


def kept(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "service" / "uploads").rglob("*.*")}


async def test_a_picture_apart_from_its_text_is_uploaded_and_both_are_answered_once(bench: Any, tmp_path: Path) -> None:
    async with both(bench, tmp_path, Stage(lambda _: "好看。"), merge=Merge(quiet=5, longest=20)) as (
        s,
        service,
        server,
    ):
        server.put("/a.png", PNG)
        await s.napcat.private_message(ANN, [bench.image(url=f"http://{server.at}/a.png")])
        await s.napcat.private_message(ANN, "看我家的猫")
        assert await stored(service, f"private:{ANN}", 2) == ["[图片]", "看我家的猫"]
        await s.napcat.wait_sent(user_id=ANN)
        assert kept(tmp_path) == {PNG}
        assert server.asked == ["/a.png"]
        assert await service.outcomes(f"private:{ANN}") == ["replied"]


async def test_a_picture_as_a_cq_code_and_alone_is_accepted(bench: Any, tmp_path: Path) -> None:
    async with both(bench, tmp_path, Stage()) as (s, service, server):
        s.napcat.message_format = "string"
        server.put("/a.png?rkey=1&b=[2]", PNG)
        await s.napcat.private_message(ANN, [bench.image(url=f"http://{server.at}/a.png?rkey=1&b=[2]")], copies=2)
        assert await stored(service, f"private:{ANN}", 1) == ["[图片]"]
        await s.napcat.wait_sent(user_id=ANN)
        assert kept(tmp_path) == {PNG}
        assert server.asked == ["/a.png?rkey=1&b=[2]"]


async def test_a_picture_that_cannot_be_had_is_a_message_all_the_same(bench: Any, tmp_path: Path) -> None:
    async with both(bench, tmp_path, Stage()) as (s, service, server):
        server.put("/page", b"<html>")
        urls = ["/etc/passwd", "http://169.254.169.254/a.png", f"http://{server.at}/page", "http://127.0.0.1:1/a.png"]
        await s.napcat.private_message(ANN, [*(bench.image(url=url) for url in urls), bench.text("看")])
        assert await stored(service, f"private:{ANN}", 1) == ["[图片][图片][图片][图片]看"]
        assert kept(tmp_path) == set()
        assert (s.bridge.counters["pictures"], s.bridge.counters["pictures_missing"]) == (0, 4)


async def test_a_picture_is_kept_while_the_service_is_away_and_survives_a_kill(bench: Any, tmp_path: Path) -> None:
    async with both(bench, tmp_path, Stage()) as (s, service, server):
        server.put("/a.gif", GIF)
        port, s.service.port = s.service.port, 1
        await s.kill()
        s.settings = s.settings.model_copy(update={"service": "ws://127.0.0.1:1/ws/bridge"})
        await s.start()
        await s.napcat.group_message(
            GROUP, ANN, [bench.at(s.napcat.self_id), bench.image(url=f"http://{server.at}/a.gif")]
        )
        await s.waiting(1)
        server.answers.clear()  # its address is good for a short while only
        await s.kill()
        s.settings = s.settings.model_copy(update={"service": f"ws://127.0.0.1:{port}/ws/bridge"})
        await s.start()
        assert await stored(service, f"group:{GROUP}", 1) == ["[图片]"]
        assert kept(tmp_path) == {GIF}
        assert await s.bridge.store.pictures(1) == []


@pytest.mark.parametrize("when", ["early", "late"])
async def test_a_picture_that_was_taken_back_is_nowhere(bench: Any, tmp_path: Path, when: str) -> None:
    quiet = Merge(quiet=10, longest=20) if when == "early" else Merge(quiet=0.1, longest=1)
    async with both(bench, tmp_path, Stage(), merge=quiet) as (s, service, server):
        server.put("/a.png", PNG)
        mid = await s.napcat.private_message(ANN, [bench.image(url=f"http://{server.at}/a.png")])
        if when == "late":
            await s.napcat.wait_sent(user_id=ANN)
            assert kept(tmp_path) == {PNG}
        await s.napcat.recall(mid)
        await s.napcat.private_message(ANN, "好了")
        await stored(service, f"private:{ANN}", 1 + (when == "late"))
        assert kept(tmp_path) == set()


async def test_five_messages_in_a_rush_are_stored_in_order_and_answered_once(bench: Any, tmp_path: Path) -> None:
    async with both(bench, tmp_path, Stage(lambda _: "都看到了。"), merge=Merge(quiet=25, longest=60)) as (
        s,
        service,
        _,
    ):
        said = [f"第{n}句" for n in range(5)]
        for text in said:
            await s.napcat.private_message(ANN, text)
        assert await stored(service, f"private:{ANN}", 5) == said
        await s.napcat.wait_sent(user_id=ANN)
        assert await service.outcomes(f"private:{ANN}") == ["replied"]
        assert len(s.napcat.sent) == 1


async def test_a_reaction_of_the_bot_reaches_the_message_that_it_answers(bench: Any, tmp_path: Path) -> None:
    reply = '好<action>{"type": "EMOJI_LIKE", "emoji_id": 76}</action>'
    async with both(bench, tmp_path, Stage(lambda _: reply)) as (s, service, _):
        mid = await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id), bench.text("赢了")])
        await s.napcat.wait_call("set_msg_emoji_like")
        assert s.napcat.reactions == {mid: {"76": True}}
        (turn,) = (await service.stored(f"group:{GROUP}"))[1]
        assert [(one.type, one.emoji_id, one.message_id) for one in turn.end.actions] == [("EMOJI_LIKE", 76, str(mid))]


async def test_a_poke_is_answered_once_a_minute_and_a_reaction_never(bench: Any, tmp_path: Path) -> None:
    async with both(bench, tmp_path, Stage(lambda _: "别戳了。")) as (s, service, _):
        await s.napcat.group_message(GROUP, ANN, "我来了", card="小明")
        await stored(service, f"group:{GROUP}", 1)
        await s.napcat.poke(ANN, None, GROUP)
        sent = await s.napcat.wait_sent(group_id=GROUP)
        await s.napcat.emoji_like(GROUP, ANN, sent.message_id, "128077")
        await s.napcat.poke(ANN, None, GROUP)
        heard = await stored(service, f"group:{GROUP}", 4)
        assert heard == ["我来了", "[戳一戳]", "[表情回应 👍]", "[戳一戳]"]
        said, _ = await service.stored(f"group:{GROUP}")
        assert {one.sender.name for one in said if one.role == "user"} == {"小明"}
        assert (await service.outcomes(f"group:{GROUP}")).count("replied") == 1
        assert (await service.http.get("/api/memories")).json()["memories"][0]["text"] == "我来了"
        assert len(s.napcat.sent) == 1
