from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from qqmem.app import create_app, openapi
from qqmem.db import Database
from qqmem.errors import DatabaseError, SettingsError
from qqmem.history import History
from qqmem.records import Incoming, Sender
from tests.api.conftest import Stage, make_settings, running

ROOT = Path(__file__).parents[1]


def test_importing_and_creating_the_app_opens_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    create_app(make_settings(tmp_path / "data"), load_model=lambda: pytest.fail("loaded"))
    assert not (tmp_path / "data").exists()
    assert threading.active_count() == before


async def test_no_thread_or_task_outlives_the_service(tmp_path: Path) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with running(make_settings(tmp_path), Stage(held=True)) as service:
        async with service.talk() as talk:
            for user in range(3):
                await talk.say("你好", f"private:{user}")
            await service.stage.begun()
            leaving = asyncio.create_task(service.private("你好", user="x"))
            await service.stage.begun()
            leaving.cancel()
            await asyncio.wait([leaving])
    await asyncio.get_running_loop().shutdown_default_executor()
    assert set(threading.enumerate()) == threads
    assert asyncio.all_tasks() == tasks


async def test_two_services_in_one_process_do_not_meet(tmp_path: Path) -> None:
    first = running(make_settings(tmp_path / "1"), Stage())
    second = running(make_settings(tmp_path / "2"), Stage(lambda _: "我是另一个。"))
    async with first as one, second as other:
        assert (await one.private("你好")).json()["reply"] == "好的。"
        assert (await other.private("你好")).json()["reply"] == "我是另一个。"
        assert (await other.private("你好")).json()["turn_id"] == 2
        for service, turns in ((one, "1.0"), (other, "2.0")):
            assert f'qqmem_turns_total{{outcome="replied"}} {turns}' in (await service.http.get("/metrics")).text


async def test_no_token_waits_for_the_acknowledgement_of_the_one_before(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage()) as service, service.talk():
        (connection,) = service.server.server_state.connections
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---- the end ---------------------------------------------------------------------------------------------------------


async def test_sigterm_lets_replies_end_and_tells_their_readers(tmp_path: Path) -> None:
    stage = Stage(held=True)
    async with running(make_settings(tmp_path), stage) as service, service.talk() as talk, service.talk() as idle:
        await talk.say("你好")
        await stage.begun()
        waiting = asyncio.create_task(service.private("你好", user=2))
        await stage.begun()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ConnectionClosed):  # a socket that waits for nothing is closed at once
            await idle.next()
        stage.go()
        assert (await talk.until("turn.end"))[-1]["outcome"] == "replied"
        with pytest.raises(ConnectionClosed):
            await talk.next()
        assert talk.connection.close_code == idle.connection.close_code == 1012
        assert (await waiting).json()["reply"] == "好的。"
    async with running(make_settings(tmp_path), Stage()) as service:
        assert await service.outcomes() == ["replied"]


async def test_what_does_not_end_in_time_is_cancelled_told_and_stored(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, server={"drain_seconds": 0.1})
    stage = Stage(held=True)
    async with running(settings, stage) as service, service.talk() as talk:
        await talk.say("讲个长故事")
        await stage.begun()
        service.server.should_exit = True
        assert (await talk.until("turn.end"))[-1]["outcome"] == "cancelled"
        with pytest.raises(ConnectionClosed):
            await talk.next()
    async with running(settings, Stage()) as service:
        assert await service.outcomes() == ["cancelled"]


async def test_while_it_stops_it_takes_nothing_new(tmp_path: Path) -> None:
    stage = Stage(held=True)
    async with running(make_settings(tmp_path), stage) as service, service.talk() as talk:
        assert (await service.http.get("/health")).status_code == 200  # its connection stays open for more
        await talk.say("你好")
        await stage.begun()
        service.server.should_exit = True
        await service.state["condition"].stopping.wait()
        answer = await service.http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
        answer = await service.private("你好", user=2)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stopped")
        async with httpx.AsyncClient(trust_env=False) as another:
            with pytest.raises(httpx.ConnectError):
                await another.get(f"http://127.0.0.1:{service.port}/health")
        stage.go()
        await talk.until("turn.end")


async def test_a_reader_that_sleeps_does_not_keep_the_service_from_stopping(tmp_path: Path) -> None:
    stage = Stage(lambda _: "长" * 200, held=True, width=1000)
    async with running(make_settings(tmp_path), stage) as service, service.talk(max_queue=1) as talk:
        await talk.say("讲个长故事")
        await stage.begun()
        service.server.should_exit = True
        stage.go()
        await service.left()
        talk.connection.transport.abort()


# ---- the beginning ---------------------------------------------------------------------------------------------------


async def test_a_turn_that_a_crash_cut_off_is_marked_and_the_conversation_goes_on(tmp_path: Path) -> None:
    async with Database.open(tmp_path) as db:
        history = History(db)
        said = Incoming("private:10001", Sender("10001", "小明"), "在吗", datetime.now(UTC))
        message, _ = await history.add(said)
        await history.begin_turn("private:10001", [message.id])
    async with running(make_settings(tmp_path), Stage()) as service:
        assert await service.outcomes() == ["interrupted"]
        assert (await service.private("还在吗")).json()["reply"] == "好的。"
        prompt = await service.stage.begun()
        assert prompt.index("在吗") < prompt.index("还在吗")


async def test_a_data_folder_that_is_none_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DatabaseError, match="--data"):
        async with running(make_settings(tmp_path / "data"), Stage()):
            pass


async def test_prompts_that_cannot_be_used_are_one_error_before_anything_is_opened(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "data", chat={"prompt_order": ("persona", "contxt")})
    with pytest.raises(SettingsError, match="context"):
        async with running(settings, Stage()):
            pass
    assert not (tmp_path / "data").exists()


# ---- its description -------------------------------------------------------------------------------------------------


async def test_the_description_that_is_served_is_the_one_of_the_command(tmp_path: Path) -> None:
    async with running(make_settings(tmp_path), Stage()) as service:
        assert (await service.http.get("/openapi.json")).json() == openapi()


def test_docs_openapi_json_is_current() -> None:
    """If it is not: qqmem openapi > docs/openapi.json."""
    snapshot = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))
    assert snapshot == openapi()
