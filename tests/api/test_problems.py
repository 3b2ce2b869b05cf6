from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import Service, Stage, make_settings, running

JSON = {"Content-Type": "application/json"}


async def post(service: Service, content: str | bytes, **headers: str) -> tuple[int, dict[str, str]]:
    answer = await service.http.post("/api/chat/private", content=content, headers={**JSON, **headers})
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return answer.status_code, body["error"]


async def test_a_body_that_is_not_json_is_400(service: Service) -> None:
    for content in ("hello", "{", '{"user_id": 1, "content": "hi"', "[" * 100_000, b"\xff\xfe{}"):
        status, error = await post(service, content)
        assert (status, error["code"]) == (400, "invalid_request"), content[:40]
        assert "Expecting" not in error["message"]


OK = {"user_id": 1, "content": "你好"}


WRONG: list[tuple[Any, str]] = [
    ([], "JSON object"),
    ({}, "The field user_id is missing."),
    ({"user_id": 1}, "empty"),
    ({**OK, "user_id": ""}, "user_id"),
    ({**OK, "user_id": None}, "user_id"),
    ({**OK, "user_id": 1.5}, "user_id"),
    ({**OK, "user_id": "../etc/passwd"}, "user_id"),
    ({**OK, "user_id": "x" * 65}, "user_id"),
    ({**OK, "content": ""}, "empty"),
    ({**OK, "content": " \n\t　"}, "empty"),
    ({**OK, "content": 5}, "content"),
    ({**OK, "content": ["你好"]}, "content"),
    ({**OK, "timestamp": "yesterday"}, "timestamp"),
    ({**OK, "timestamp": "2026-11-22T17:00:00"}, "timestamp"),
    ({**OK, "timestamp": 1e300}, "timestamp"),
    ({**OK, "timestamp": -62135596800}, "timestamp: must lie between 1970 and 9999."),
    ({**OK, "message_id": ""}, "message_id"),
    ({**OK, "user_nickname": "名" * 300}, "user_nickname"),
    ({**OK, "image_urls": ["x"] * 33}, "image_urls"),
    ({**OK, "contents": "x"}, "There is no field contents."),
    ({**OK, "很" * 5000: "x"}, "There is no field 很很"),
]


async def test_missing_empty_and_wrong_fields_are_named(service: Service, subtests: pytest.Subtests) -> None:
    for body, says in WRONG:
        with subtests.test(says, body=str(body)[:80]):
            status, error = await post(service, json.dumps(body))
            assert (status, error["code"]) == (422, "invalid_request")
            assert says in error["message"]
            assert len(error["message"]) < 300


STRANGE = [
    r'{"user_id": 1, "content": "\ud800"}',
    r'{"user_id": 1, "content": "x", "user_nickname": "\udfff"}',
    r'{"user_id": 1, "content": "x", "message_id": "\ud83d"}',
    r'{"user_id": 1, "content": "x", "\ud800": 1}',
    '{"user_id": 1, "content": "x", "timestamp": NaN}',
    '{"user_id": 1, "content": "x", "timestamp": Infinity}',
]


async def test_what_json_can_spell_but_nobody_means_is_422(service: Service, subtests: pytest.Subtests) -> None:
    for content in STRANGE:
        with subtests.test(content):
            status, error = await post(service, content)
            assert (status, error["code"]) == (422, "invalid_request")


async def test_a_body_of_the_wrong_type_says_which_is_right(service: Service) -> None:
    answer = await service.http.post("/api/chat/private", data={"user_id": 1, "content": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert "application/json" in answer.json()["error"]["message"]
    answer = await service.http.post("/api/chat/private")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "The body is missing.")


async def test_a_megabyte_of_text_is_413_and_stores_nothing(service: Service) -> None:
    status, error = await post(service, json.dumps({"user_id": 1, "content": "x" * 1_000_000}))
    assert (status, error["code"]) == (413, "too_large")
    assert "20000" in error["message"]
    assert (await service.http.get("/api/conversations")).json() == {"conversations": []}


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_413_in_our_shape(service: Service, declared: bool) -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100_000

    content = b"x" * 4_000_000 if declared else pieces()
    answer = await service.http.post("/api/chat/private", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_the_longest_text_fits_however_json_spells_it(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path, chat={"max_message_chars": 200_000}), Stage()) as service:
        status, _ = (await service.private("😀" * 200_000)).status_code, None
        assert status == 200
        body = json.dumps({"user_id": 1, "content": "😀" * 200_000}, ensure_ascii=True)
        answer = await service.http.post("/api/chat/private", content=body, headers=JSON)
        assert answer.status_code == 200


async def test_unknown_routes_and_methods_are_in_our_shape(service: Service) -> None:
    answer = await service.http.get("/api/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"] == {"code": "not_found", "message": "There is no route /api/nothing."}
    assert len((await service.http.get("/" + "x" * 5000)).text) < 400
    answer = await service.http.get("/api/chat/private")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_a_wrong_query_is_422(service: Service) -> None:
    await service.private("你好")
    for query in ("limit=0", "limit=201", "limit=x", f"before={2**63}", "before=0"):
        answer = await service.http.get(f"/api/conversations/private:10001/messages?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request"), query
        assert query.partition("=")[0] in answer.json()["error"]["message"]


async def test_a_wrong_conversation_id_is_422(service: Service) -> None:
    for id in ("10001", "private:", "private:a b", "room:1", "private:" + "1" * 65):
        answer = await service.http.get(f"/api/conversations/{id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request"), id


async def test_a_bug_is_500_logged_once_and_told_to_nobody(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def send(self, _: object) -> None:
            raise ZeroDivisionError("secret details")

    service.server.lifespan.state["chats"] = Broken()
    with caplog.at_level(logging.ERROR):
        answer = await service.private("你好")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.ERROR] == [True]


async def test_too_many_requests_are_429_with_the_time_to_wait(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path, server={"rate_limit": 2}), Stage()) as service:
        assert [(await service.http.get("/api/conversations")).status_code for _ in range(2)] == [200, 200]
        answer = await service.http.get("/api/conversations")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert (await service.http.get("/health")).status_code == 200


async def test_a_disconnect_in_the_middle_of_a_body_harms_nobody(service: Service) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        b"POST /api/chat/private HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await service.private("你好")).status_code == 200
