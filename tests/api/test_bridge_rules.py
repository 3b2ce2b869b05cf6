"""What bridges say, and what the service makes of it, on real sockets."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from qqmem.api.bridge import NO_HELLO
from tests.api.conftest import Service, Stage, make_settings, running
from tests.api.far_end import GROUP, PRIVATE, SELF, far_end, image, texts
from tests.api.test_live import watching


async def test_a_withdrawn_message_is_stopped_and_forgotten(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, far_end(service) as end:
        await end.say(1, "说错了")
        await service.stage.begun()
        for _ in range(2):
            await end.send("withdraw", seq=2, conversation=PRIVATE, message_id="100")
            await end.until("ack", seq=2)
        await end.send("withdraw", seq=3, conversation=PRIVATE, message_id="unknown")
        await end.until("ack", seq=3)
        ((message,), turns) = await service.stored()
        assert message.withdrawn
        assert [turn.end.outcome for turn in turns] == ["cancelled"]


async def test_the_bots_own_messages_are_known_by_their_ids(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, chat={"group_policy": "addressed"})
    async with running(settings, Stage()) as service, far_end(service) as end:
        await end.say(1, "随便说说", GROUP)
        await end.say(2, "你说", GROUP, addressed=True)
        delivery = await end.until("delivery")
        assert delivery["in_reply_to"] == ["200"]
        await end.delivered(delivery, "7001", "7002")
        await end.say(3, "为什么？", GROUP, reply_to="100")
        await end.say(4, "为什么？", GROUP, reply_to="7002")
        assert (await end.until("delivery"))["in_reply_to"] == ["400"]
        await end.send("withdraw", seq=5, conversation=GROUP, message_id="7001")
        await end.until("ack", seq=5)
        said, _ = await service.stored(GROUP)
        assert [one.withdrawn for one in said if one.role == "assistant"] == [True, False]


async def test_a_reply_quotes_what_others_have_pushed_out_of_sight(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, chat={"group_policy": "addressed"})
    async with running(settings, Stage(held=True)) as service, far_end(service) as end:
        await end.say(1, "你说", GROUP, addressed=True)
        await service.stage.begun()
        await end.say(2, "别的事", GROUP, sender={"id": "10002"})
        await end.until("ack", seq=2)
        service.stage.go()
        assert (await end.until("delivery"))["quote"] == "100"
        await end.say(3, "你再说", GROUP, addressed=True)
        assert "quote" not in await end.until("delivery")


async def test_nothing_is_written_where_the_bot_is_muted(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path / "one"), Stage(held=True)) as service, far_end(service) as end:
        await end.say(1, "在吗", GROUP, addressed=True)
        await service.stage.begun()
        await end.send("notice", seq=2, conversation=GROUP, kind="muted", user_id=SELF)
        await end.until("ack", seq=2)
        assert await service.outcomes(GROUP) == ["cancelled"]
        await end.say(3, "在吗", GROUP, addressed=True)
        await end.until("ack", seq=3)
        data = image(tmp_path / "one", tmp_path / "two")
    async with running(make_settings(data), Stage()) as service, far_end(service) as end:
        await end.send("notice", seq=4, conversation=GROUP, kind="unmuted", user_id="10001")  # somebody else
        await end.say(5, "在吗", GROUP, addressed=True)
        await end.say(6, "/help", GROUP, addressed=True)
        await end.send("notice", seq=7, conversation=GROUP, kind="unmuted")
        await end.say(8, "在吗", GROUP, addressed=True)
        assert (await end.until("delivery"))["in_reply_to"] == ["800"]
        assert await texts(service, GROUP) == ["在吗", "在吗", "在吗", "在吗", "好的。"]


async def test_a_mute_ends_by_itself(service: Service) -> None:
    async with far_end(service) as end:
        times = {1: "2000-01-01T00:00:00Z", 2: "2100-01-01T00:00:00Z"}
        for n, until in times.items():
            await end.send("notice", seq=n, conversation=f"group:{n}", kind="muted", until=until)
        await end.send("notice", seq=3, conversation="group:3", kind="kicked", until=times[1])
        for n in (3, 2, 1):
            await end.say(10 - n, "在吗", f"group:{n}", addressed=True)
        assert (await end.until("delivery"))["conversation"] == "group:1"


async def test_context_is_stored_and_never_answered(service: Service) -> None:
    async with far_end(service) as end:
        await end.say(1, "昨天的话", context_only=True, addressed=True)
        await end.say(2, "/help", context_only=True)
        await end.say(3, "", images=["a", "b"])
        assert (await end.until("delivery"))["in_reply_to"] == ["300"]
    assert await texts(service) == ["昨天的话", "/help", "[图片][图片]", "好的。"]


async def test_a_command_is_answered_once_and_not_stored(service: Service) -> None:
    async with far_end(service) as end:
        await end.say(1, "/help")
        answer = await end.until("delivery")
        assert (answer["in_reply_to"], "/" in answer["parts"][0]) == (["100"], True)
        await end.say(1, "/help")
        await end.delivered(answer, "7001")
        assert await texts(service) == []
    async with far_end(service) as end:
        assert end.welcome["resume_from"] == 1
        await end.say(2)
        assert (await end.until("delivery"))["in_reply_to"] == ["200"]


NONSENSE = [
    "hello",
    "[]",
    '{"type": "shout", "seq": 5}',
    '{"type": "message", "seq": 6}',
    '{"type": "message", "seq": true}',
    '{"type": "message", "seq": 1e99}',
    '{"type": "delivered", "delivery_id": "x", "status": "sent"}',
    '{"type": "delivered", "delivery_id": 1, "status": "perhaps"}',
    '{"type": "status", "napcat": "?", "online": 3}',
    '{"type": "hello", "protocol": 1, "bridge": "home", "self_id": "1"}',
    '{"type": "notice", "seq": 7, "conversation": "group:1", "kind": "exploded"}',
]


async def test_nonsense_is_an_error_and_the_service_goes_on(service: Service) -> None:
    async with far_end(service) as end:
        for frame in NONSENSE:
            await end.connection.send(frame)
            await end.until("error")
        await end.say(8, "")
        assert (await end.until("error"))["code"] == "invalid_request"
        await end.say(9, "x" * 100_000)
        assert (await end.until("error"))["code"] == "too_large"
        await end.send("delivered", delivery_id=404, status="sent")
        await end.say(10, more="of a newer bridge")
        await end.until("delivery")
    assert [frame["seq"] for frame in end.all("ack")] == [5, 6, 7, 8, 9, 10]  # it would be no better the next time
    assert await texts(service) == ["你好", "好的。"]


async def test_the_first_frame_is_hello(service: Service) -> None:
    async with far_end(service, greet=False) as end:
        await end.say(1)
        assert (await end.next())["type"] == "error"
        await end.connection.send("???")
        assert (await end.next())["type"] == "error"
        await end.hello()
        assert end.welcome["resume_from"] == 0
    async with far_end(service, greet=False) as end:
        await end.send("hello", protocol=2, bridge="home", self_id="1")
        assert await end.closed() == NO_HELLO
    assert await texts(service) == []


async def test_only_a_bridges_token_opens_it(tmp_path: Path) -> None:
    tokens = [{"name": scope, "token": f"{scope}-{'x' * 20}", "scopes": [scope]} for scope in ("chat", "bridge")]
    settings = make_settings(tmp_path, server={"tokens": tokens})
    async with running(settings, Stage()) as service:
        for scope in ("chat", "none"):
            with pytest.raises(InvalidStatus) as refused:
                async with far_end(service, additional_headers={"Authorization": f"Bearer {scope}-{'x' * 20}"}):
                    pass
            assert refused.value.response.status_code in (401, 403)
        async with far_end(service, additional_headers={"Authorization": f"Bearer bridge-{'x' * 20}"}) as end:
            await end.settled()


async def test_watchers_health_and_metrics_know_of_bridges(service: Service) -> None:
    async def health() -> Any:
        return (await service.http.get("/health")).json().get("bridges")

    assert await health() is None
    async with watching(service) as watch:
        async with far_end(service) as end:
            connected = await watch.until("bridge.connected")
            assert connected == {"type": "bridge.connected", "bridge": "home", "self_id": SELF, "connected": True}
            await end.send("status", napcat=True, online=False, queued=2, counters={"sent": 5})
            told = {"napcat": True, "online": False, "queued": 2, "counters": {"sent": 5}}
            assert await watch.until("bridge.status") == {"type": "bridge.status", "bridge": "home", **told}
            async with watching(service) as late:
                (seen,) = late.dashboard.frames[0]["bridges"]
                assert seen == {"bridge": "home", "self_id": SELF, "status": told}
            await end.say(1)
            delivery = await end.until("delivery")
            assert await health() == {"connected": 1, "undelivered": 1}
            metrics = (await service.http.get("/metrics")).text
            assert "qqmem_bridges_connected 1.0" in metrics
            assert "qqmem_deliveries_waiting 1.0" in metrics
            await end.delivered(delivery, status="failed", reason="muted")
            outcome = await watch.until("bridge.delivery")
            assert (outcome["status"], outcome["reason"]) == ("failed", "muted")
        assert (await watch.until("bridge.connected"))["connected"] is False
    await service.left()
    assert await health() == {"connected": 0, "undelivered": 0}


async def test_what_was_said_is_gone_with_its_deliveries(service: Service, tmp_path: Path) -> None:
    async with far_end(service) as end:
        await end.say(1)
        delivery = await end.until("delivery")
        await end.delivered(delivery, "7001")
        for seq, text in ((2, "你好"), (3, "/help")):  # a command's answer is of no turn
            await end.say(seq, text)
            await end.until("delivery")
        database = sqlite3.connect(tmp_path / "qqmem.db")
        kept = database.execute("SELECT payload FROM delivery ORDER BY id").fetchall()
        assert [bool(json.loads(payload)) for (payload,) in kept] == [False, True, True]
        await service.state["chats"].delete(PRIVATE)
    async with far_end(service) as end:
        await end.say(4, conversation=GROUP, addressed=True)
        assert (await end.until("delivery"))["in_reply_to"] == ["400"]
        await service.state["chats"].delete(GROUP)
    tables = ("delivery", "sent", "message")
    assert [database.execute(f"SELECT count(*) FROM {name}").fetchone() for name in tables] == [(0,), (0,), (0,)]
    database.close()


async def test_who_does_not_say_hello_is_left(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(), send_seconds=0.2) as service:
        async with far_end(service, greet=False) as end:
            assert await end.closed() == NO_HELLO


async def test_a_cancel_that_comes_twice_stops_nothing_new(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, far_end(service) as end:
        for seq in (1, 3):
            await end.say(seq)
            await service.stage.begun()
            await end.send("cancel", seq=2, conversation=PRIVATE)
            await end.until("ack", seq=2)
        service.stage.go()
        assert (await end.until("delivery"))["in_reply_to"] == ["300"]


async def test_a_delivery_that_waits_is_dropped_when_all_that_it_answers_is_taken_back(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, chat={"merge_window": 0.3})
    async with running(settings, Stage()) as service:
        async with far_end(service) as end:
            await end.say(1, "一")
            await end.say(2, "二")
            first = await end.until("delivery")
            assert first["in_reply_to"] == ["100", "200"]
            await end.say(3, "三", GROUP, addressed=True)
            await end.until("delivery")
        async with far_end(service) as end:  # as if it had not got them: nothing was told
            await end.send("withdraw", seq=4, conversation=PRIVATE, message_id="100")
            await end.send("withdraw", seq=5, conversation=GROUP, message_id="300")
            await end.until("ack", seq=5)
        async with far_end(service) as end:
            assert (await end.until("delivery"))["in_reply_to"] == ["200"]
            await end.send("withdraw", seq=6, conversation=PRIVATE, message_id="200")
            await end.until("ack", seq=6)
            assert (await service.http.get("/health")).json()["bridges"]["undelivered"] == 0
        async with far_end(service) as end:
            await end.say(7, "四")
            assert (await end.until("delivery"))["in_reply_to"] == ["700"]
        (folder,) = tmp_path.glob("qqmem.db")
        with sqlite3.connect(folder) as connection:
            dropped = connection.execute("SELECT reason, payload FROM delivery WHERE state = 'dropped'").fetchall()
        connection.close()
        assert dropped == [("withdrawn", "{}"), ("withdrawn", "{}")]


async def test_pokes_are_answered_now_and_then_and_reactions_are_kept(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(lambda _: "别戳。")) as service, far_end(service) as end:
        about: dict[str, Any] = {"conversation": GROUP, "user_id": "10001", "time": "2026-11-22T17:00:00+08:00"}
        await end.send("notice", seq=1, kind="poke", name="会长", **about)
        delivery = await end.until("delivery")
        assert (delivery["in_reply_to"], delivery["parts"]) == ([], ["别戳。"])
        await end.delivered(delivery, "7001")
        for seq, kind in ((2, "poke"), (2, "poke"), (3, "reaction")):
            await end.send("notice", seq=seq, kind=kind, emoji_id=76, message_id="7001", **about)
            await end.until("ack", seq=seq)
        await end.send("notice", seq=4, kind="poke", conversation=GROUP, user_id=SELF)  # the bot pokes
        await end.send("notice", seq=5, kind="reaction", conversation=GROUP, user_id="1", emoji_id=0x110000)  # nonsense
        assert (await end.until("error"))["code"] == "invalid_request"
        said, turns = await service.stored(GROUP)
        assert [one.text for one in said] == ["[戳一戳]", "别戳。", "[戳一戳]", "[表情回应 赞]"]
        assert (said[0].sender.name, said[3].reply_to) == ("会长", "7001")
        assert len(turns) == 1


async def test_a_reply_that_waits_does_not_quote_what_was_taken_back(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, chat={"group_policy": "addressed", "merge_window": 0.3})
    async with running(settings, Stage(held=True)) as service:
        async with far_end(service) as end:
            await end.say(1, "一", GROUP, addressed=True)
            await end.say(2, "二", GROUP, addressed=True)
            await service.stage.begun()
            await end.say(3, "别的事", GROUP, sender={"id": "10002"})
            await end.until("ack", seq=3)
            service.stage.go()
            assert (await end.until("delivery"))["quote"] == "200"
        async with far_end(service) as end:
            await end.send("withdraw", seq=4, conversation=GROUP, message_id="200")
            await end.until("ack", seq=4)
        async with far_end(service) as end:
            again = await end.until("delivery")
            assert (again["in_reply_to"], "quote" in again) == (["100"], False)
