from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from qqmem import __version__
from tests.api.conftest import Service, Stage, make_settings, running


def values(answer: httpx.Response) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_health_is_ok_when_the_model_serves(service: Service) -> None:
    await service.private("你好")
    for path in ("/health", "/api/health"):
        answer = await service.http.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "model": "qwen2.5-coder-0.5b", "version": __version__}


async def test_metrics_count_what_happens(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage(held=True)) as service, service.talk():
        older = asyncio.create_task(service.private("在吗"))
        await service.stage.begun()
        newer = asyncio.create_task(service.private("算了"))
        await older
        service.stage.go()
        await newer
        await service.group("今天好热")
        await service.http.get("/api/conversations/private:404/messages")
        for method in ("GET", "MADEUP"):
            await service.http.request(method, "/nowhere/at/all")
        found = values(await service.http.get("/metrics"))
    assert found[("qqmem_turns_total", "replied")] == 1
    assert found[("qqmem_turns_total", "superseded")] == 1
    assert ("qqmem_turns_total", "no_reply") not in found, "what got no turn is none"
    assert found[("qqmem_http_requests_total", "POST", "/api/chat/private", "200")] == 2
    assert found[("qqmem_http_requests_total", "GET", "/api/conversations/{id}/messages", "404")] == 1
    assert found[("qqmem_http_requests_total", "GET", "(none)", "404")] == 1
    assert found[("qqmem_http_requests_total", "OTHER", "(none)", "404")] == 1
    assert found[("qqmem_sockets_open",)] == 1
    assert found[("qqmem_first_token_seconds_count",)] == found[("qqmem_turn_seconds_count",)] == 1
    assert found[("qqmem_engine_new_tokens_total",)] >= 3
    assert ("qqmem_engine_running",) in found


async def test_health_says_that_the_model_is_being_loaded(tmp_path: Path) -> None:
    stage, loaded = Stage(), threading.Event()

    def load() -> object:
        loaded.wait()
        return stage.load()

    async with running(make_settings(tmp_path), stage, load_model=load) as service:  # type: ignore[arg-type]
        try:
            answer = await service.http.get("/health")
            assert (answer.status_code, answer.json()["status"]) == (503, "loading")
            assert answer.json()["reason"]
            early = asyncio.create_task(service.private("早"))
            async with service.talk() as talk:
                await talk.say("我也早", "private:2")
                assert (await talk.next())["type"] == "accepted", "it is stored meanwhile"
                loaded.set()
                assert (await talk.until("turn.end"))[-1]["reply"] == "好的。"
            assert (await early).json()["reply"] == "好的。"
            assert (await service.http.get("/health")).status_code == 200
        finally:
            loaded.set()


async def test_a_model_that_cannot_be_loaded_is_told_once_and_health_is_red(tmp_path: Path) -> None:
    from qqmem.errors import ModelError

    def load() -> object:
        raise ModelError("There is no model in /nowhere; fetch it with: qqmem model pull")

    async with running(make_settings(tmp_path), Stage(), load_model=load) as service:  # type: ignore[arg-type]
        answer = await service.private("你好")
        assert (answer.status_code, answer.json()["status"]) == (503, "error")
        answer = await service.http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")
        assert answer.json()["reason"] == "There is no model in /nowhere; fetch it with: qqmem model pull"
        assert [str(error) for error in service.failures] == [answer.json()["reason"]]
        assert [m.text for m in (await service.stored())[0]] == ["你好"], "it is kept all the same"


async def test_a_crash_of_the_model_thread_is_told_once_and_health_is_red(tmp_path: Path) -> None:
    def crash(_: object) -> None:
        raise SystemExit("out of memory, secret details")

    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        waiting = asyncio.create_task(service.private("你好"))
        await service.stage.begun()
        engine = service.state["condition"].engine
        crashing = asyncio.create_task(engine.call(crash))
        await engine.wait_failed()
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stopped")
        answer = await service.http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")
        assert "secret" not in answer.text
        assert len(service.failures) == 1
        assert (await service.private("还在吗")).status_code == 503
        crashing.cancel()
        await asyncio.wait([crashing])
