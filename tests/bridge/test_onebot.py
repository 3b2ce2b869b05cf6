"""The native transport on the bench: whatever drops, it comes back; who must not come back, does not."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import serve

from qqmem_bridge.clock import Backoff
from qqmem_bridge.errors import CallFailed, CallLost, NotConnected, Refused
from qqmem_bridge.onebot import OneBot
from tests.bridge.harness import FastClock


@asynccontextmanager
async def running(napcat: Any, token: str = "t", speed: float = 50, **options: Any) -> AsyncIterator[OneBot]:
    found = OneBot(napcat.ws_uri, token, FastClock(speed), chance=random.Random(1), **options)
    task = asyncio.create_task(found.run())
    try:
        await napcat.wait_connected()
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def message(transport: OneBot) -> dict[str, Any]:
    async for event in transport.events():
        if event["post_type"] == "message":
            return event
    raise AssertionError


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("seconds", [0.0, 60.0])
async def test_it_comes_back(bench: Any, how: str, seconds: float) -> None:
    async with bench.FakeNapCat(token="t") as napcat, running(napcat) as transport:
        await napcat.group_message(1, 2, "before")
        await message(transport)
        await (napcat.down(seconds / 50, how) if seconds else napcat.drop(how))
        await napcat.wait_connected()
        await napcat.group_message(1, 2, "after")
        assert (await message(transport))["raw_message"] == "after"
        assert transport.reconnects == 1


async def test_a_call_in_flight_fails_at_once_on_a_drop(bench: Any) -> None:
    async with bench.FakeNapCat(token="t") as napcat, running(napcat, speed=1) as transport:
        await anext(aiter(transport.events()))
        napcat.hang("get_status")
        call = asyncio.create_task(transport.call("get_status", {}))
        await napcat.wait_call("get_status")
        await napcat.drop("abort")
        with pytest.raises(CallLost):
            await asyncio.wait_for(call, 5)  # and not after 30 s
        with pytest.raises(NotConnected):
            await transport.call("get_status", {})


async def test_how_calls_end(bench: Any) -> None:
    async with bench.FakeNapCat(token="t") as napcat, running(napcat) as transport:
        await anext(aiter(transport.events()))
        assert await transport.call("get_login_info", {}) == {"user_id": napcat.self_id, "nickname": "FakeBot"}
        for like, ambiguous, code in (("muted", False, 120), ("kicked", False, 110), ("timeout", True, 0)):
            napcat.fail("send_msg", like=like)
            with pytest.raises(CallFailed) as failed:
                await transport.call("send_msg", {})
            assert (failed.value.ambiguous, failed.value.result(code), failed.value.retcode) == (ambiguous, True, 1200)
        napcat.hang("get_status")
        with pytest.raises(CallLost):
            await transport.call("get_status", {})
        calls = [transport.call("get_group_info", {"group_id": n}) for n in range(1, 40)]
        assert [found["group_id"] for found in await asyncio.gather(*calls)] == list(range(1, 40))


async def test_a_half_open_connection_is_noticed(bench: Any) -> None:
    async with bench.FakeNapCat(token="t", heartbeat=0) as napcat, running(napcat) as transport:
        await anext(aiter(transport.events()))
        napcat.stall()
        await napcat.wait(lambda: napcat.connections_total >= 2, 10, "a second connection")
        napcat.stall(False)
        await napcat.drop("abort")
        await napcat.wait_connected()
        await napcat.group_message(1, 2, "back")
        assert (await message(transport))["raw_message"] == "back"


async def test_a_napcat_without_heartbeats_is_asked_and_kept(bench: Any) -> None:
    async with bench.FakeNapCat(token="t", heartbeat=0) as napcat, running(napcat) as transport:
        await anext(aiter(transport.events()))
        await napcat.wait_call("get_status", count=4)  # some three minutes of the fast clock
        assert napcat.connections_total == 1


async def test_a_wrong_token_ends_it_with_a_sentence(bench: Any) -> None:
    async with bench.FakeNapCat(token="t") as napcat:
        with pytest.raises(Refused, match="NAPCAT_TOKEN"):
            await OneBot(napcat.ws_uri, "wrong", FastClock()).run()
        assert napcat.auth_failures == 1


async def test_no_address_ends_it_with_a_sentence() -> None:
    with pytest.raises(Refused, match=r"napcat\.url"):
        await OneBot("127.0.0.1:3001", "", FastClock()).run()


async def test_frames_that_are_none_are_passed_over() -> None:
    async def odd(socket: Any) -> None:
        for frame in ("{", "[1]", "3", '"x"', '{"echo": {"a": 1}}', "[" * 100_000, b"\xff\xfe"):
            await socket.send(frame)
        await socket.send(json.dumps({"post_type": "message", "n": 1}))
        await socket.wait_closed()

    async with serve(odd, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        transport = OneBot(f"ws://127.0.0.1:{port}", "", FastClock())
        task = asyncio.create_task(transport.run())
        assert (await message(transport))["n"] == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_delays_grow_to_half_a_minute_and_start_over() -> None:
    backoff = Backoff(random.Random(1))
    delays = [next(backoff) for _ in range(50)]
    assert 0.5 <= delays[0] <= 1.5
    assert max(delays) <= 30
    assert min(delays[6:]) >= 15
    assert len(set(delays[6:20])) > 3
    backoff.reset()
    assert next(backoff) <= 1.5
