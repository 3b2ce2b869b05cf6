from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from qqmem.api.auth import Guard, RateLimit, TooOften
from qqmem.errors import Forbidden, Unauthorized
from qqmem.settings import Scope, Token

CHATTER = Token(name="bot", token=SecretStr("chat-secret"), scopes=("chat",))
ADMIN = Token(name="boss", token=SecretStr("管理员的口令在此"), scopes=("admin",))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def connection(kind: str = "http", method: str = "GET", **headers: str) -> HTTPConnection:
    scope: dict[str, Any] = {"type": kind, "client": ("127.0.0.1", 5000)}
    if kind == "http":
        scope["method"] = method
    headers = {"host": "127.0.0.1:9999", **headers}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection(scope)


def guard(*tokens: Token, origins: tuple[str, ...] = (), per_minute: int = 0) -> Guard:
    return Guard(tokens, origins, RateLimit(per_minute, Clock()))


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_token_opens_what_its_scopes_say() -> None:
    found = guard(CHATTER, ADMIN)
    assert found.admit(connection(**bearer("chat-secret")), "chat").name == "bot"
    with pytest.raises(Forbidden, match="does not have the scope read"):
        found.admit(connection(**bearer("chat-secret")), "read")


@pytest.mark.parametrize("scope", ["chat", "read", "admin", "bridge"])
def test_admin_implies_every_scope_and_a_token_may_be_chinese(scope: Scope) -> None:
    assert guard(CHATTER, ADMIN).admit(connection(**bearer("管理员的口令在此")), scope).name == "boss"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "chat-secret"},
        {"authorization": "Basic chat-secret"},
        {"authorization": "Bearer chat-secre"},
        {"authorization": "Bearer chat-secret-and-more"},
    ],
)
def test_without_a_known_token_nobody_comes_in(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized) as raised:
        guard(CHATTER).admit(connection(**headers), "chat")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9999", "localhost:9999", "LOCALHOST", "[::1]:9999"])
def test_without_tokens_programs_on_this_machine_may_do_everything(host: str) -> None:
    assert guard().admit(connection(host=host), "admin").may("bridge")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:9999", "192.168.1.5:9999", "", "[::1", "[x]"])
def test_without_tokens_a_name_that_only_points_here_is_refused(host: str) -> None:
    with pytest.raises(Forbidden, match=r"127\.0\.0\.1"):
        guard().admit(connection(host=host), "chat")


def test_with_tokens_any_host_name_will_do() -> None:
    assert guard(CHATTER).admit(connection(host="bot.example", **bearer("chat-secret")), "chat")


@pytest.mark.parametrize("kind", [{"kind": "websocket"}, {"method": "POST"}, {"method": "DELETE"}])
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:99990",
        "http://127.0.0.1:9999.evil.example",
        "http://evil.127.0.0.1:9999",
        "http://[",
        "127.0.0.1:9999",
    ],
)
def test_a_page_of_another_origin_may_change_nothing(kind: dict[str, str], origin: str) -> None:
    with pytest.raises(Forbidden, match="origin"):
        guard().admit(connection(origin=origin, **kind), "chat")


@pytest.mark.parametrize("kind", [{"kind": "websocket"}, {"method": "POST"}])
@pytest.mark.parametrize("origin", ["http://127.0.0.1:9999", "https://127.0.0.1:9999", "https://pages.example"])
def test_our_own_pages_and_those_in_the_settings_may(kind: dict[str, str], origin: str) -> None:
    assert guard(origins=("https://pages.example",)).admit(connection(origin=origin, **kind), "chat")


def test_a_page_is_our_own_whichever_case_its_host_is_written_in() -> None:
    written = connection(method="POST", host="LocalHost:9999", origin="http://localhost:9999")
    assert guard().admit(written, "chat")


def test_reading_asks_for_no_origin() -> None:
    assert guard().admit(connection(origin="http://evil.example"), "read")


def test_requests_are_limited_for_each_token_by_itself() -> None:
    found = guard(CHATTER, ADMIN, per_minute=2)
    for _ in range(2):
        found.admit(connection(**bearer("chat-secret")), "chat")
    with pytest.raises(TooOften) as raised:
        found.admit(connection(**bearer("chat-secret")), "chat")
    assert raised.value.retry_after == 30
    found.admit(connection(**bearer("管理员的口令在此")), "chat")


def test_a_refused_request_does_not_count() -> None:
    clock = Clock()
    limit = RateLimit(1, clock)
    assert limit.take("a") == 0
    assert limit.take("a") == limit.take("a") == 60
    clock.now += 60
    assert limit.take("a") == 0


def test_a_quiet_hour_saves_nothing_up() -> None:
    clock = Clock()
    limit = RateLimit(5, clock)
    limit.take("a")
    clock.now += 3600
    assert [limit.take("a") == 0 for _ in range(6)] == [True] * 5 + [False]


def test_who_was_refused_is_not_forgotten_for_a_crowd_and_who_may_again_is() -> None:
    clock = Clock()
    limit = RateLimit(1, clock)
    assert limit.take("a") == 0
    clock.now += 30
    for n in range(1500):
        limit.take(str(n))
    assert limit.take("a") == 30
    tracemalloc.start()
    for _ in range(10):  # crowds that each leave a minute behind the other
        clock.now += 61
        for n in range(1000):
            limit.take(f"{clock.now} {n}")
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1_000_000, "some 200 kB are one crowd"


def test_zero_is_no_limit() -> None:
    limit = RateLimit(0)
    assert not any(limit.take("a") for _ in range(10_000))


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=200))
def test_no_window_lets_through_more_than_the_bucket_and_its_refill(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, clock)
    passed: list[float] = []
    for pause in pauses:
        clock.now += pause
        wait = limit.take("a")
        if not wait:
            passed.append(clock.now)
        else:
            clock.now += wait + 1e-6
            assert limit.take("a") == 0, "after the time it was told, it may"
            passed.append(clock.now)
    for i, start in enumerate(passed):
        for j, end in enumerate(passed[i:], 1):
            assert j <= per_minute * (1 + (end - start) / 60) + 1e-3
