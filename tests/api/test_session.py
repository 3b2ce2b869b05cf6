"""A browser's login, from outside."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from qqmem.api import login
from qqmem.api.login import COOKIE, LIFETIME, Signer
from tests.api.conftest import Service, Stage, make_settings, running

SECRET = "the-right-secret"


@asynccontextmanager
async def guarded(folder: Path, secret: str = SECRET, **server: Any) -> AsyncIterator[Service]:
    async with running(make_settings(folder, token=secret, server=server), Stage()) as service:
        yield service


async def log_in(service: Service, secret: str = SECRET, **headers: str) -> httpx.Response:
    own = {"Origin": f"http://127.0.0.1:{service.port}"}
    return await service.http.post("/api/session", json={"token": secret}, headers=own | headers)


def attributes(answer: httpx.Response) -> tuple[str, set[str]]:
    """The value of the cookie, and what stands behind it."""
    pair, *rest = answer.headers["set-cookie"].split("; ")
    name, _, value = pair.partition("=")
    assert name == COOKIE
    return value, set(rest)


async def test_a_token_once_and_then_a_cookie(tmp_path: Path) -> None:
    async with guarded(tmp_path) as service:
        before = (await service.http.get("/api/session")).json()
        assert before == {
            "required": True,
            "authenticated": False,
            "language": "zh",
            "bot": "小忆",
            "version": before["version"],
        }
        answer = await log_in(service)
        value, rest = attributes(answer)
        assert rest == {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=604800"}
        assert SECRET not in answer.text + value
        assert answer.json() == (await service.http.get("/api/session")).json(), "the client keeps the cookie"
        assert (answer.json()["name"], answer.json()["scopes"]) == ("admin", ["admin"])
        end = datetime.fromtimestamp(int(value.partition(".")[0]), UTC)
        assert datetime.fromisoformat(answer.json()["expires_at"]) == end
        assert (await service.http.get("/api/conversations")).status_code == 200

        own = {"Origin": f"http://127.0.0.1:{service.port}"}
        assert (await service.http.delete("/api/session", headers=own)).status_code == 204
        assert not service.http.cookies
        assert (await service.http.get("/api/conversations")).status_code == 401


async def test_a_wrong_token_is_told_in_a_sentence_and_cannot_be_tried_for_ever(tmp_path: Path) -> None:
    async with guarded(tmp_path) as service:
        answers = [await log_in(service, "the-wrong-secret") for _ in range(11)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429]
        assert answers[0].json()["error"]["message"] == "This token is not known; use one of those in the settings."
        assert "set-cookie" not in answers[0].headers
        assert 0 < int(answers[-1].headers["retry-after"]) <= 6
        assert (await log_in(service)).status_code == 429, "a right one is no exception"
        bearer = {"Authorization": f"Bearer {SECRET}"}
        assert (await service.http.get("/api/conversations", headers=bearer)).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"token":""}', b'{"token":"x","more":1}', b'{"token":7}'])
async def test_what_is_no_login_is_refused_in_our_shape(tmp_path: Path, body: bytes) -> None:
    async with guarded(tmp_path) as service:
        answer = await service.http.post("/api/session", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["code"] == "invalid_request"


async def test_with_a_cookie_only_our_own_pages_may_change_something(tmp_path: Path) -> None:
    async with guarded(tmp_path, origins=["https://pages.example"]) as service:
        await log_in(service)
        url, body = "/api/chat/private", {"user_id": 1, "content": "你好"}
        origins = {None: 403, "http://evil.example": 403, f"http://127.0.0.1:{service.port}": 200, "null": 403}
        for origin, status in origins.items():
            headers = {} if origin is None else {"Origin": origin}
            assert (await service.http.post(url, json=body, headers=headers)).status_code == status, origin
        assert (await service.http.get("/api/conversations")).status_code == 200, "reading asks for no origin"
        bearer = {"Authorization": f"Bearer {SECRET}"}
        assert (await service.http.post(url, json=body, headers=bearer)).status_code == 200
        wrong = {"Authorization": "Bearer wrong-secret"}
        assert (await service.http.get("/api/conversations", headers=wrong)).status_code == 401
        evil = {"Origin": "http://evil.example"}
        assert (await service.http.delete("/api/session", headers=evil)).status_code == 403
        assert (await log_in(service, Origin="http://evil.example")).status_code == 403


@pytest.mark.parametrize("path", ["/ws/chat", "/ws/live"])
async def test_a_cookie_opens_websockets_of_our_own_pages_only(tmp_path: Path, path: str) -> None:
    async with guarded(tmp_path) as service:
        value, _ = attributes(await log_in(service))
        url, cookie = f"ws://127.0.0.1:{service.port}{path}", f"{COOKIE}={value}"
        headers = {"Cookie": cookie, "Origin": f"http://127.0.0.1:{service.port}"}
        async with connect(url, additional_headers=headers) as socket:
            if path == "/ws/chat":
                await socket.send('{"type":"ping"}')
            assert json.loads(await socket.recv())
        for refused in ({"Cookie": cookie}, {**headers, "Origin": "http://evil.example"}, {**headers, "Cookie": "x=y"}):
            with pytest.raises(InvalidStatus):
                await connect(url, additional_headers=refused)


@pytest.mark.parametrize("path", ["/ws/chat", "/ws/live"])
async def test_a_websocket_ends_with_the_login_that_has_opened_it(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "LIFETIME", timedelta(seconds=2))
    async with guarded(tmp_path) as service:
        value, _ = attributes(await log_in(service))
        headers = {"Cookie": f"{COOKIE}={value}", "Origin": f"http://127.0.0.1:{service.port}"}
        async with connect(f"ws://127.0.0.1:{service.port}{path}", additional_headers=headers) as socket:
            await socket.wait_closed()
            assert socket.close_code == 4401


async def test_a_cookie_is_void_once_its_token_is_another(tmp_path: Path) -> None:
    async with guarded(tmp_path) as service:
        value, _ = attributes(await log_in(service))
    cookie = {"Cookie": f"{COOKIE}={value}"}
    async with guarded(tmp_path) as service:
        assert (await service.http.get("/api/conversations", headers=cookie)).status_code == 200, (
            "it outlives a restart"
        )
    async with guarded(tmp_path, "another-secret") as service:
        assert (await service.http.get("/api/conversations", headers=cookie)).status_code == 401
        assert not (await service.http.get("/api/session", headers=cookie)).json()["authenticated"]


async def test_the_scopes_of_a_cookie_are_those_of_its_token(tmp_path: Path) -> None:
    tokens = [{"name": name, "token": f"{name}-secret", "scopes": (name,)} for name in ("chat", "read", "admin")]
    async with running(make_settings(tmp_path, server={"tokens": tokens}), Stage()) as service:
        assert (await log_in(service, "read-secret")).json()["scopes"] == ["read"]
        assert (await service.http.get("/api/conversations")).status_code == 200
        assert (await service.http.get("/api/settings")).status_code == 403
        own = {"Origin": f"http://127.0.0.1:{service.port}"}
        answer = await service.http.post("/api/chat/private", json={"user_id": 1, "content": "好"}, headers=own)
        assert answer.status_code == 403


async def test_behind_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    async with guarded(tmp_path) as service:
        page = {"Origin": "https://bot.example", "Host": "bot.example"}
        assert "Secure" in attributes(await log_in(service, **page))[1]
        value, rest = attributes(await service.http.delete("/api/session", headers=page))
        assert value.strip('"') == ""
        assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/", "Max-Age=0"} <= rest


async def test_without_tokens_nobody_logs_in(service: Service) -> None:
    session = (await service.http.get("/api/session")).json()
    assert (session["required"], session["authenticated"], session["scopes"]) == (False, True, ["admin"])
    answer = await service.http.post("/api/session", json={"token": "anything"})
    assert (answer.status_code, answer.json()["authenticated"]) == (200, True)
    assert "set-cookie" not in answer.headers
    for method in ("GET", "POST"):
        answer = await service.http.request(
            method, "/api/session", json={"token": "anything"}, headers={"Host": "evil.example"}
        )
        assert answer.status_code == 403


async def test_nothing_of_a_login_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        async with guarded(tmp_path) as service:
            value, _ = attributes(await log_in(service))
            await log_in(service, "the-wrong-secret")
            await asyncio.sleep(0)
    logged = "".join(record.getMessage() for record in caplog.records if record.name.startswith("qqmem"))
    assert "secret" not in logged
    assert value not in logged


# ---- the cookie by itself --------------------------------------------------------------------------------------------


def test_a_cookie_ends_with_its_time() -> None:
    now = 1_000_000.0
    signer = Signer(b"secret-token", lambda: now)
    value, end = signer.sign()
    assert end.timestamp() == now + LIFETIME.total_seconds()
    now += LIFETIME.total_seconds() - 1
    assert signer.read(value) == end
    now += 1
    assert signer.read(value) is None


def test_a_cookie_outlives_an_upgrade_and_is_dear_to_guess_the_token_of() -> None:
    value, end = Signer(b"secret-token", lambda: 1_000_000.0).sign()
    key = hashlib.scrypt(b"secret-token", salt=b"qqmem session", n=8192, r=8, p=1)
    stamp = str(int(end.timestamp()))
    assert value == f"{stamp}.{hmac.new(key, stamp.encode(), 'sha256').hexdigest()}"


def test_nothing_but_what_was_signed_is_read() -> None:
    signer, other = Signer(b"secret-token", lambda: 0.0), Signer(b"other-token", lambda: 0.0)
    value, _ = signer.sign()
    end, _, mark = value.partition(".")
    wrong: Mapping[str, str] = {
        "another token": other.sign()[0],
        "a later end": f"{int(end) + 1}.{mark}",
        "another spelling of the end": f"0{end}.{mark}",
        "no mark": f"{end}.",
        "nothing": "",
        "no end": f".{mark}",
        "letters": f"{end}.{mark[:-1]}é",
    }
    assert {name: signer.read(cookie) for name, cookie in wrong.items()} == dict.fromkeys(wrong)
