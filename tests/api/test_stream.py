from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.api.conftest import Service, Stage, make_settings, running


async def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line async for line in response.aiter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_a_reply_comes_as_server_sent_events(service: Service) -> None:
    body = {"user_id": 10001, "content": "你好", "message_id": "m"}
    async with service.http.stream("POST", "/api/chat/private?stream=true", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        accepted, start, *tokens, end = await events(response)
    assert accepted == {"type": "accepted", "conversation": "private:10001", "message_id": "m", "id": 1}
    assert start == {"type": "turn.start", "turn": 1, "conversation": "private:10001", "messages": [1]}
    assert "".join(token["text"] for token in tokens) == end["reply"] == "好的。"
    assert {token["type"] for token in tokens} == {"token"}
    assert (end["type"], end["id"], end["outcome"]) == ("turn.end", 1, "replied")


async def test_server_sent_events_end_when_a_newer_message_comes(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        body = {"group_id": 7, "user_id": 1, "content": "小忆？"}
        async with service.http.stream("POST", "/api/chat/group?stream=true", json=body) as response:
            await service.stage.begun()
            newer = asyncio.create_task(service.group("小忆！", group=7))
            assert (await events(response))[-1]["outcome"] == "superseded"
        service.stage.go()
        assert (await newer).json()["reply"] == "好的。"


async def test_errors_come_before_a_stream_begins(service: Service) -> None:
    answer = await service.http.post("/api/chat/private?stream=true", json={"user_id": 1, "content": " "})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
