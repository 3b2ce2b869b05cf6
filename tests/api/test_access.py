"""Every route, from outside: who comes in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qqmem.app import openapi
from qqmem.settings import Scope
from tests.api.conftest import Service, Stage, make_settings, running

OPEN = {"/health", "/api/health", "/api/session"}
SECRETS: dict[str, Scope] = {"chat-secret": "chat", "read-secret": "read", "admin-secret": "admin"}
NEEDS: dict[tuple[str, str], Scope] = {
    ("POST", "/api/chat/private"): "chat",
    ("POST", "/api/chat/group"): "chat",
    ("POST", "/api/conversations/{id}/cancel"): "chat",
    ("GET", "/api/conversations"): "read",
    ("GET", "/api/conversations/{id}"): "read",
    ("GET", "/api/conversations/{id}/messages"): "read",
    ("GET", "/metrics"): "read",
    ("POST", "/api/upload/{kind}"): "chat",
    ("GET", "/static/{folder}/{name}"): "read",
    ("GET", "/api/messages"): "read",
    ("GET", "/api/system"): "read",
    ("GET", "/api/settings"): "admin",
    ("GET", "/api/conversations/{id}/export"): "admin",
    ("DELETE", "/api/conversations/{id}"): "admin",
    ("GET", "/api/memories"): "read",
    ("GET", "/api/memories/counts"): "read",
    ("GET", "/api/memories/map"): "read",
    ("GET", "/api/memories/{id}"): "read",
    ("GET", "/api/memories/{id}/history"): "read",
    ("GET", "/api/memories/export"): "admin",
    ("POST", "/api/memories"): "admin",
    ("POST", "/api/memories/forget"): "admin",
    ("POST", "/api/memories/import"): "admin",
    ("POST", "/api/memories/{id}/pin"): "admin",
    ("PATCH", "/api/memories/{id}"): "admin",
    ("DELETE", "/api/memories/{id}"): "admin",
    ("GET", "/api/training/status"): "read",
    ("GET", "/api/training/debug"): "read",
    ("GET", "/api/training/runs"): "read",
    ("GET", "/api/training/runs/{id}"): "read",
    ("GET", "/api/training/runs/{id}/progress"): "read",
    ("GET", "/api/training/runs/{id}/report"): "read",
    ("GET", "/api/training/runs/{id}/report.html"): "read",
    ("GET", "/api/training/releases"): "read",
    ("POST", "/api/training/trigger"): "admin",
    ("POST", "/api/training/cancel"): "admin",
    ("POST", "/api/training/rollback"): "admin",
    ("POST", "/api/training/save-chat-history"): "admin",
}


def routes() -> Iterator[tuple[str, str]]:
    for path, methods in openapi()["paths"].items():
        for method in methods:
            if path not in OPEN:
                yield method.upper(), path


def test_this_file_knows_every_route() -> None:
    assert set(routes()) == set(NEEDS)


async def test_every_route_needs_a_token_of_its_scope_and_admin_opens_all(tmp_path: Path) -> None:
    tokens = [{"name": scope, "token": secret, "scopes": (scope,)} for secret, scope in SECRETS.items()]
    async with running(make_settings(tmp_path, server={"tokens": tokens}), Stage()) as service:
        for method, path in routes():
            url = path.replace("{id}", "private:404")
            for headers in ({}, {"Authorization": "Bearer wrong-secret"}):
                answer = await service.http.request(method, url, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
            for secret, scope in SECRETS.items():
                answer = await service.http.request(method, url, headers={"Authorization": f"Bearer {secret}"})
                refused = answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden"
                assert refused == (scope not in (NEEDS[method, path], "admin")), (method, path, scope)
                assert answer.status_code not in (401, 500)
        for path in OPEN:
            assert (await service.http.get(path)).is_success


async def test_without_tokens_a_name_that_only_points_here_is_refused(service: Service) -> None:
    for method, path in NEEDS:
        url = path.replace("{id}", "private:404")
        answer = await service.http.request(method, url, headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), (method, path)


async def test_a_page_of_another_origin_changes_nothing(service: Service) -> None:
    own = {"Origin": f"http://127.0.0.1:{service.port}"}
    for method, path in NEEDS:
        if method == "GET":
            continue
        url = path.replace("{id}", "private:404")
        answer = await service.http.request(method, url, headers={"Origin": "http://evil.example"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), (method, path)
        answer = await service.http.request(method, url, headers=own)
        # To import nothing, and to do with training what changes nothing here, is fine.
        assert answer.status_code in (404, 409, 422) or path.endswith(("/import", "/cancel", "/save-chat-history"))


async def test_pages_of_an_origin_in_the_settings_are_let_in_by_browsers_too(tmp_path: Path) -> None:
    page = {"Origin": "https://pages.example"}
    async with running(make_settings(tmp_path, server={"origins": ["https://pages.example"]}), Stage()) as service:
        asking = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        answer = await service.http.options("/api/chat/private", headers=asking)
        assert answer.headers["access-control-allow-origin"] == "https://pages.example"
        answer = await service.http.post("/api/chat/private", json={"user_id": 1, "content": "你好"}, headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://pages.example")


async def test_secrets_are_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        async with running(make_settings(tmp_path, token="the-right-secret"), Stage()) as service:
            for secret in ("the-right-secret", "the-wrong-secret"):
                await service.http.get("/api/conversations", headers={"Authorization": f"Bearer {secret}"})
    assert "secret" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("qqmem"))
