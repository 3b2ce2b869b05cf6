from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qqmem.api.socket import MOST_REPLIES
from tests.api.conftest import Service, Stage, make_settings, running
from tests.fakes_engine import CharTokenizer


async def test_a_turn_arrives_frame_by_frame(service: Service) -> None:
    async with service.talk() as talk:
        await talk.say("你好", message_id="m-1", time="2026-11-22T17:00:00+08:00")
        accepted, start, *tokens, end = await talk.until("turn.end")
    assert accepted == {"type": "accepted", "conversation": "private:10001", "message_id": "m-1", "id": 1}
    assert start == {"type": "turn.start", "turn": 1, "conversation": "private:10001", "messages": [1]}
    assert "".join(token["text"] for token in tokens) == "好的。"
    assert [token["n"] for token in tokens] == sorted(token["n"] for token in tokens)
    assert {(token["type"], token["turn"], token["channel"]) for token in tokens} == {("token", 1, "reply")}
    usage, timing = end.pop("usage"), end.pop("timing")
    assert end == {
        "type": "turn.end",
        "turn": 1,
        "conversation": "private:10001",
        "id": 1,
        "outcome": "replied",
        "reply": "好的。",
        "actions": [],
    }
    assert usage["completion"] == 3
    assert 0 <= timing["queue"] <= timing["first_token"] <= timing["total"]


async def test_thoughts_come_on_their_own_channel(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(lambda _: "想想</think>你好", thinks=True)) as service:
        async with service.talk() as talk:
            await talk.say("在？")
            frames = await talk.until("turn.end")
    said = {"think": "", "reply": ""}
    for frame in frames:
        if frame["type"] == "token":
            said[frame["channel"]] += frame["text"]
    assert said == {"think": "想想", "reply": "你好"}
    assert frames[-1]["reply"] == "你好"


async def test_a_newer_message_supersedes_and_each_message_has_its_end(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, service.talk() as talk:
        await talk.say("在吗", message_id="a")
        await service.stage.begun()
        await talk.say("算了", message_id="b")
        frames = await talk.until("turn.end")
        assert (frames[-1]["id"], frames[-1]["outcome"]) == (1, "superseded")
        service.stage.go()
        frames = await talk.until("turn.end")
        assert (frames[-1]["id"], frames[-1]["outcome"]) == (2, "replied")
        assert [f["messages"] for f in frames if f["type"] == "turn.start"] == [[1, 2]]


async def test_a_burst_is_stored_in_order_and_answered_once(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path, chat={"merge_window": 0.2}), Stage()) as service, service.talk() as talk:
        for n in range(5):
            await talk.say(f"第{n}条")
        ends: list[dict[str, Any]] = []
        while len(ends) < 5:
            ends += [frame for frame in await talk.until("turn.end") if frame["type"] == "turn.end"]
        assert [(end["id"], end["outcome"]) for end in ends] == [
            *((n, "superseded") for n in range(1, 5)),
            (5, "replied"),
        ]
        messages, _ = await service.stored()
        assert [m.text for m in messages] == [*(f"第{n}条" for n in range(5)), "好的。"]


class SlowTokenizer(CharTokenizer):
    """Makes no prompt with 第一条 in it before it may."""

    def __init__(self, begun: Callable[[], object]) -> None:
        super().__init__()
        self._begun = begun
        self.may = threading.Event()

    def encode(self, text: str) -> list[int]:
        if "第一条" in text:
            self._begun()
            self.may.wait()
        return super().encode(text)


async def test_messages_that_come_while_a_prompt_is_being_built_are_not_lost(tmp_path: Path) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    tokenizer = SlowTokenizer(lambda: loop.call_soon_threadsafe(begun.set))
    async with running(make_settings(tmp_path), Stage(tokenizer=tokenizer)) as service, service.talk() as talk:
        try:
            await talk.say("第一条")
            await begun.wait()
            for text in ("第二条", "第三条"):
                await talk.say(text)
                await talk.until("accepted")
        finally:
            tokenizer.may.set()
        ends = {frame["id"]: frame["outcome"] for frame in await talk.until("turn.end", id=3) if "outcome" in frame}
        assert ends[3] == "replied"
        messages, _ = await service.stored()
        assert [m.text for m in messages] == ["第一条", "第二条", "第三条", "好的。"]


async def test_many_conversations_share_one_socket(tmp_path: Path) -> None:
    stage = Stage(lambda prompt: f"收到{prompt.rpartition('我是')[2][:2]}")
    async with running(make_settings(tmp_path), stage) as service, service.talk() as talk:
        for n in range(10, 30):
            await talk.say(f"我是{n}", f"private:{n}")
        ended: dict[str, str] = {}
        while len(ended) < 20:
            ended |= {f["conversation"]: f["reply"] for f in await talk.until("turn.end") if f["type"] == "turn.end"}
        assert ended == {f"private:{n}": f"收到{n}" for n in range(10, 30)}


async def test_cancel_stops_the_reply(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, service.talk() as talk:
        await talk.send(type="cancel", conversation="private:10001")  # nothing to stop: no answer, no error
        await talk.say("讲个长故事")
        await service.stage.begun()
        await talk.send(type="cancel", conversation="private:10001")
        assert (await talk.until("turn.end"))[-1]["outcome"] == "cancelled"
        assert await service.outcomes() == ["cancelled"]


async def test_a_withdrawn_message_is_not_answered(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, service.talk() as talk:
        await talk.say("说错了", message_id="oops")
        await service.stage.begun()
        await talk.send(type="withdraw", conversation="private:10001", message_id="oops")
        assert (await talk.until("turn.end"))[-1]["outcome"] == "cancelled"
        (message,), _ = await service.stored()
        assert message.withdrawn
        await talk.send(type="withdraw", conversation="private:10001", message_id="other")
        (*_, error) = await talk.until("error")
        assert error["error"]["code"] == "not_found"
        assert (error["conversation"], error["message_id"]) == ("private:10001", "other")


async def test_ping_is_answered(service: Service) -> None:
    async with service.talk() as talk:
        await talk.send(type="ping")
        assert await talk.next() == {"type": "pong"}


MESSAGE = {"type": "message", "conversation": "private:1", "sender": {"id": "1"}, "text": "你好"}


BAD = [
    ("hello", "invalid_request", "JSON"),
    ("", "invalid_request", "JSON"),
    ("[" * 100_000, "invalid_request", "JSON"),
    ("[]", "invalid_request", "object"),
    ("{}", "invalid_request", "The field type is missing."),
    ('{"type": "shout"}', "invalid_request", "There is no frame of type shout."),
    ('{"type": "' + "x" * 100_000 + '"}', "invalid_request", "type"),
    ('{"type": "ping", "\\ud800": 1}', "invalid_request", ""),
    (json.dumps({"type": "message"}), "invalid_request", "The field conversation is missing."),
    (json.dumps({**MESSAGE, "sender": {}}), "invalid_request", "The field sender.id is missing."),
    (json.dumps({**MESSAGE, "sender": {"id": True}}), "invalid_request", "sender.id"),
    (json.dumps({**MESSAGE, "sender": {"id": "a b"}}), "invalid_request", "sender.id"),
    (json.dumps({**MESSAGE, "conversation": "10001"}), "invalid_request", "conversation"),
    (json.dumps({**MESSAGE, "conversation": "private:1\n"}), "invalid_request", "conversation"),
    (json.dumps({**MESSAGE, "text": 5}), "invalid_request", "text"),
    (json.dumps({**MESSAGE, "text": " \n"}), "invalid_request", "empty"),
    (json.dumps({**MESSAGE, "text": "x" * 1_000_000}), "too_large", "1000000"),
    (json.dumps({**MESSAGE, "time": "2026-11-22 17:00:00"}), "invalid_request", "time"),
    (json.dumps({**MESSAGE, "time": "0001-01-01T00:00:00+00:00"}), "invalid_request", "time"),
    (json.dumps({**MESSAGE, "images": ["a"]}), "invalid_request", "There is no field images."),
]


async def test_a_bad_frame_is_an_error_and_the_socket_goes_on(service: Service, subtests: pytest.Subtests) -> None:
    async with service.talk() as talk:
        for frame, code, says in BAD:
            await talk.connection.send(frame)
            error = await talk.next()
            with subtests.test(says, frame=frame[:80]):
                assert (error["type"], error["error"]["code"]) == ("error", code)
                assert says in error["error"]["message"]
                assert len(error["error"]["message"]) < 300
        await talk.say("你好")
        assert (await talk.until("turn.end"))[-1]["reply"] == "好的。"


async def test_a_binary_frame_closes_the_socket(service: Service) -> None:
    async with service.talk() as talk:
        await talk.connection.send(b"\x00\x01")
        with pytest.raises(ConnectionClosed):
            await talk.next()
        assert talk.connection.close_code == 1003


async def test_an_oversized_frame_closes_the_socket_and_nothing_else(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, service.talk() as other:
        await other.say("等我", "private:2")
        await service.stage.begun()
        async with service.talk() as talk:
            await talk.connection.send("x" * 3_000_000)
            with pytest.raises(ConnectionClosed):
                await talk.next()
            assert talk.connection.close_code == 1009
        service.stage.go()
        assert (await other.until("turn.end"))[-1]["outcome"] == "replied"


async def test_one_failing_turn_leaves_the_socket_and_the_others_alone(tmp_path: Path) -> None:
    def script(prompt: str) -> str:
        if "炸" in prompt:
            raise RuntimeError("secret details")
        return "好的。"

    async with running(make_settings(tmp_path), Stage(script)) as service, service.talk() as talk:
        await talk.say("炸", "private:1")
        await talk.say("你好", "private:2")
        ends: dict[str, Any] = {}
        while len(ends) < 2:
            ends |= {f["conversation"]: f for f in await talk.until("turn.end") if f["type"] == "turn.end"}
        assert ends["private:1"]["outcome"] == "failed"
        assert ends["private:1"]["error"]["code"] == "internal"
        assert "secret" not in str(ends)
        assert ends["private:2"]["outcome"] == "replied"


async def test_too_many_messages_are_refused_and_told_which(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, server={"rate_limit": 3})
    async with running(settings, Stage()) as service, service.talk() as talk:  # opening it counted as one
        for n in range(3):
            await talk.say("你好", f"private:{n}", message_id=n)
        (*_, error) = await talk.until("error")
        assert error["error"]["code"] == "rate_limited"
        assert (error["conversation"], error["message_id"]) == ("private:2", "2")
        await talk.send(type="ping")
        await talk.until("pong")


async def test_a_socket_waits_for_so_many_replies_and_no_more(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, service.talk() as talk:
        for n in range(MOST_REPLIES + 1):
            await talk.say("你好", f"private:{n}")
        (*_, error) = await talk.until("error")
        assert error["error"]["code"] == "rate_limited"
        assert error["conversation"] == f"private:{MOST_REPLIES}"
        await talk.send(type="cancel", conversation="private:0")
        await talk.until("turn.end")
        await talk.say("现在呢？", "private:x")
        await talk.until("accepted", conversation="private:x")


async def test_a_bug_closes_the_socket_with_1011_and_is_logged(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def send(self, _: object) -> None:
            raise ZeroDivisionError("secret details")

    service.server.lifespan.state["chats"] = Broken()
    async with service.talk() as talk:
        await talk.say("你好")
        with pytest.raises(ConnectionClosed):
            await talk.next()
        assert (talk.connection.close_code, talk.connection.close_reason) == (1011, "")
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


async def test_a_client_that_leaves_in_the_middle_cancels_its_turns(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        async with service.talk() as talk:
            for user in (1, 2):
                await talk.say("再见", f"private:{user}")
                await service.stage.begun()
            talk.connection.transport.abort()
        await service.left()
        for user in (1, 2):
            assert await service.outcomes(f"private:{user}") == ["cancelled"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong-token"}])
async def test_without_a_known_token_no_socket_opens(tmp_path: Path, headers: dict[str, str]) -> None:
    async with running(make_settings(tmp_path, token="right-token"), Stage()) as service:
        with pytest.raises(InvalidStatus) as refused:
            async with service.talk(additional_headers=headers):
                pass
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "unauthorized"
        async with service.talk(additional_headers={"Authorization": "Bearer right-token"}) as talk:
            await talk.send(type="ping")
            assert await talk.next() == {"type": "pong"}


async def test_a_page_of_another_origin_opens_no_socket(service: Service) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with service.talk(origin="http://evil.example"):
            pass
    assert refused.value.response.status_code == 403
