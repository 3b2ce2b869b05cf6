"""The bridge between both ends, on real sockets: messages in, replies out, and who is left alone."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qqmem_bridge import bridge as module
from qqmem_bridge.settings import PaceSettings
from tests.bridge.harness import ANN, BOB, GROUP, scene


async def test_a_message_is_handed_on(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.group_message(
            GROUP, ANN, [bench.at(s.napcat.self_id), bench.text(" 在吗 "), bench.face(14)], card="小明"
        )
        frame = await s.service.wait("message")
        assert s.service.hellos[0] | {"last_acked": 0} == {
            "type": "hello", "protocol": 1, "bridge": "qq", "self_id": str(s.napcat.self_id), "last_acked": 0,
        }  # fmt: skip
        assert frame == {
            "type": "message", "seq": frame["seq"], "conversation": "group:777", "message_id": str(mid),
            "sender": {"id": "10001", "name": "user10001", "card": "小明", "role": "member"}, "group_name": "群777",
            "text": "在吗 [表情]", "addressed": True, "time": frame["time"],
        }  # fmt: skip
        assert frame["time"].endswith("+00:00")


async def test_a_reply_is_sent_and_its_outcome_told(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        mid = await s.napcat.group_message(GROUP, ANN, [bench.at(s.napcat.self_id), bench.text("hi")])
        await s.service.wait("message")
        await s.service.deliver(1, ["在。", "什么事？"], in_reply_to=[str(mid)], quote=str(mid), at=str(ANN))
        told = await s.service.outcome(1)
        first, second = s.napcat.sent
        assert (first.reply_to, first.ats, first.plain_text) == (mid, [str(ANN)], " 在。")
        assert [one["type"] for one in second.segments] == ["text"]
        assert told == {
            "type": "delivered", "delivery_id": 1, "status": "sent",
            "message_ids": [str(first.message_id), str(second.message_id)],
        }  # fmt: skip
        assert 0 <= s.bridge.counters["reply_milliseconds"] < 10_000


async def test_who_is_not_listed_is_not_heard(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.group_message(999999, ANN, [bench.at(s.napcat.self_id)])
        await s.napcat.private_message(10099, "hi")
        await s.napcat.private_message(ANN, "hi", sub_type="group")
        await s.napcat.group_message(GROUP, s.napcat.self_id, "my own")
        await s.napcat.private_message(ANN, "last")
        await s.service.wait("message")
        assert [frame["text"] for frame in s.service.frames] == ["last"]
        await s.service.deliver(1, "psst", chat="group:999999")
        assert (await s.service.outcome(1))["status"] == "failed"
        assert not s.napcat.sent


async def test_a_message_that_comes_twice_counts_once(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.private_message(ANN, "one", copies=3, message_id=41)
        await s.service.wait("message")
        await s.kill()
        await s.start()
        await s.napcat.private_message(ANN, [bench.text("one"), bench.image()], message_id=41)
        await s.napcat.private_message(ANN, "two", message_id=42)
        await s.service.wait("message", 2)
        assert [frame["text"] for frame in s.service.frames] == ["one", "two"]
        assert s.bridge.counters["duplicates"] == 1
        assert not s.bridge.inbound._fetching


async def test_what_came_is_remembered_for_a_week(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        for days, heard in ((0, 2), (6, 3), (8, 5)):
            await s.bridge.store.forget_old(s.clock.time() + days * 86400)
            await s.napcat.private_message(ANN, f"after {days} days", message_id=41)
            await s.napcat.private_message(ANN, "behind it")
            await s.service.wait("message", heard)
        assert [frame["text"] for frame in s.service.of("message")] == [
            "after 0 days", "behind it", "behind it", "after 8 days", "behind it",
        ]  # fmt: skip


async def test_order_is_kept_in_a_chat_and_chats_do_not_wait(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        for n in range(50):
            await s.napcat.private_message(ANN, f"{n}")
        await s.service.wait("message", 50)
        assert [frame["text"] for frame in s.service.of("message")] == [f"{n}" for n in range(50)]
        s.napcat.hang("get_msg")  # what a quote is looked up with: this group waits for it
        await s.napcat.group_message(GROUP, ANN, [bench.reply(99), bench.text("quoting")])
        await s.napcat.group_message(GROUP, ANN, "behind it")
        await s.napcat.wait_call("get_msg")
        await s.napcat.private_message(ANN, "fast")
        await s.service.wait("message", 53)
        assert [frame["text"] for frame in s.service.of("message")[50:]] == ["fast", "quoting", "behind it"]
        for n in range(20):
            await s.service.deliver(n + 1, f"r{n}", chat=f"private:{ANN}")
        await s.service.outcome(20)
        assert [one.plain_text for one in s.napcat.sent] == [f"r{n}" for n in range(20)]


async def test_a_quote_of_the_bot_is_addressed(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.service.deliver(1, "我说的")
        mine = (await s.service.outcome(1))["message_ids"][0]
        other = await s.napcat.group_message(GROUP, BOB, "他说的")
        s.napcat.custom["get_msg"] = lambda p: {"user_id": s.napcat.self_id if p["message_id"] == "123" else BOB}
        for quoted in (mine, other, 123, 124):
            await s.napcat.group_message(GROUP, ANN, [bench.reply(quoted), bench.text("嗯")])
        await s.service.wait("message", 5)
        heard = s.service.of("message")[1:]
        assert [frame["addressed"] for frame in heard] == [True, False, True, False]
        assert [frame["reply_to"] for frame in heard] == [str(mine), str(other), "123", "124"]


async def test_robots_do_not_address_the_bot(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        s.napcat.add_group(GROUP, members=[BOB])
        s.napcat.members[GROUP][BOB]["is_robot"] = True
        for user in (BOB, ANN, BOB):
            await s.napcat.group_message(GROUP, user, [bench.at(s.napcat.self_id)])
        await s.service.wait("message", 3)
        assert [frame["addressed"] for frame in s.service.of("message")] == [False, True, False]


async def test_whether_somebody_is_a_robot_is_asked_until_it_is_known(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        s.napcat.add_group(GROUP, members=[BOB])
        s.napcat.members[GROUP][BOB]["is_robot"] = True
        s.napcat.hang("get_group_member_info")
        for _ in range(2):
            await s.napcat.group_message(GROUP, BOB, [bench.at(s.napcat.self_id)])
        await s.service.wait("message", 2)
        assert [frame["addressed"] for frame in s.service.of("message")] == [True, False]


async def test_text_of_the_model_is_text(bench: Any, tmp_path: Path) -> None:
    text = "[CQ:at,qq=all] &#91; @全体成员"
    async with scene(bench, tmp_path) as s:
        await s.service.deliver(1, text)
        await s.service.outcome(1)
        assert s.napcat.sent[0].segments == [{"type": "text", "data": {"text": text}}]
        await s.service.deliver(2, "hi", at="all")  # not a number: not a delivery
        assert (await s.service.outcome(2))["reason"] == "malformed"
        await s.service.deliver(3, "there")
        await s.service.outcome(3)
        assert [one.plain_text for one in s.napcat.sent] == [text, "there"]


async def test_long_replies_go_out_in_pieces_at_a_pace(bench: Any, tmp_path: Path) -> None:
    slow = PaceSettings(gap=1.5, jitter=1.5, per_minute=20, burst=3)
    async with scene(bench, tmp_path, pace=slow) as s:
        s.napcat.max_text, s.napcat.min_send_interval = 1200, 1 / s.clock.speed
        await s.service.deliver(1, "这是一句话。" * 1000)
        assert (await s.service.outcome(1))["status"] == "sent"
        assert len(s.napcat.sent) == 4
        nodes = s.napcat.sent[-1].segments  # the rest is one forwarded chat
        said = [one.plain_text for one in s.napcat.sent[:3]] + [n["data"]["content"][0]["data"]["text"] for n in nodes]
        assert "".join(said) == "这是一句话。" * 1000
        assert {n["data"]["user_id"] for n in nodes} == {str(s.napcat.self_id)}
        times = [one.t for one in s.napcat.sent]
        gaps = [(b - a) * s.clock.speed for a, b in pairwise(times)]
        assert all(gap > 1.4 for gap in gaps)
        assert (times[3] - times[0]) * s.clock.speed > 8.9  # three at once, then one in three seconds


async def test_odd_things_do_not_make_it_deaf(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        for odd in (
            {"post_type": "message"},
            {"post_type": "message", "message_type": "group", "group_id": [], "user_id": {}, "message_id": 1},
            {"post_type": "notice", "notice_type": {"a": 1}, "group_id": GROUP},
            {"post_type": "notice", "notice_type": "group_ban", "group_id": GROUP, "duration": "x", "user_id": ANN},
            {"post_type": 5},
            {"post_type": "meta_event", "meta_event_type": "heartbeat", "interval": "soon", "status": 3},
        ):
            await s.napcat.inject(odd)
        await s.napcat.private_message(ANN, "x" * 10_000_000)
        big = await s.service.wait("message")
        assert len(big["text"]) == 8001
        assert s.service.socket is not None
        for nonsense in ("nonsense", "[]", '{"type": "delivery", "delivery_id": -1}', '{"type": "new"}', "{" * 5000):
            await s.service.socket.send(nonsense)
        await s.service.deliver(1, "still here", chat=f"private:{ANN}")
        assert (await s.service.outcome(1))["status"] == "sent"
        assert len(s.service.hellos) == 1


async def test_nothing_secret_is_logged(bench: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with scene(bench, tmp_path) as s:
        await s.napcat.private_message(ANN, "geheimnis")
        await s.service.wait("message")
        await s.service.deliver(1, "antwort", chat=f"private:{ANN}")
        await s.service.outcome(1)
        s.napcat.fail("send_private_msg", like="rich_media")
        await s.service.deliver(2, "antwort", chat=f"private:{ANN}")
        await s.service.outcome(2)
        await s.napcat.drop()
        await s.napcat.wait_connected()
    # asyncio tells of slow steps, with what they hold, when it debugs
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "asyncio")
    assert "reply 1 sent" in logged
    for secret in ("geheimnis", "antwort", "napcat-token", "service-token", str(ANN)):
        assert secret not in logged


async def test_it_tells_how_it_is(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.service.changes.until(lambda: s.service.statuses)
        assert s.service.statuses[0] | {"counters": {}} == {
            "type": "status", "napcat": True, "online": True, "queued": 0, "counters": {},
        }  # fmt: skip
        state = await s.bridge.state()
        assert state["ok"]
        await s.napcat.bot_offline()
        await s.service.changes.until(lambda: not s.service.statuses[-1]["online"])
        assert not (await s.bridge.state())["ok"]


async def test_while_the_account_is_offline_replies_wait(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.napcat.bot_offline()
        await s.service.changes.until(lambda: s.service.statuses and not s.service.statuses[-1]["online"])
        await s.service.deliver(1, "later", chat=f"private:{ANN}")
        assert await s.napcat.quiet(0.1) == 0
        s.napcat.online = True
        assert (await s.service.outcome(1))["status"] == "sent"


async def test_typing_is_shown_in_private_until_the_reply(bench: Any, tmp_path: Path) -> None:
    async with scene(bench, tmp_path) as s:
        await s.service.say(type="turn", conversation=f"group:{GROUP}", state="started", message_ids=[])
        await s.service.say(type="turn", conversation=f"private:{ANN}", state="started", message_ids=[])
        await s.napcat.wait_call("set_input_status", count=3, user_id=ANN)
        await s.service.deliver(1, "hi", chat=f"private:{ANN}")
        await s.service.outcome(1)
        typed = len([call for call in s.napcat.calls if call.action == "set_input_status"])
        await asyncio.sleep(0.5)  # more than two intervals
        assert len([call for call in s.napcat.calls if call.action == "set_input_status"]) == typed


async def test_typing_of_a_turn_that_never_ends_is_not_shown_for_ever(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_TYPING", 12.0)
    async with scene(bench, tmp_path) as s:
        await s.service.say(type="turn", conversation=f"private:{ANN}", state="started", message_ids=[])
        await s.napcat.wait_call("set_input_status", user_id=ANN)
        await asyncio.wait_for(s.bridge._typing[f"private:{ANN}"], 5)
        assert len([call for call in s.napcat.calls if call.action == "set_input_status"]) == 3
