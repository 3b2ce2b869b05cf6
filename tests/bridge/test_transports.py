"""Both transports on the bench: whatever drops, they come back; who must not come back, does not."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import serve

from qqmem_bridge.clock import Backoff
from qqmem_bridge.errors import CallFailed, CallLost, NotConnected, Refused
from qqmem_bridge.napcat import reach
from qqmem_bridge.settings import Napcat, Settings
from qqmem_bridge.transport import Transport
from tests.bridge.harness import FastClock


def made(bench: Any, url: str, token: str = "t", clock: FastClock | None = None) -> Transport:
    napcat = Napcat(url=url, token=SecretStr(token))
    return reach(Settings(transport=bench.transport, napcat=napcat), clock or FastClock(50), chance=random.Random(1))


@asynccontextmanager
async def running(bench: Any, url: str, clock: FastClock | None = None) -> AsyncIterator[Transport]:
    found = made(bench, url, clock=clock)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(end, asyncio.CancelledError), end


async def message(transport: Transport) -> dict[str, Any]:
    async for event in transport.events():
        if event["post_type"] == "message":
            return event
    raise AssertionError


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("seconds", [0.0, 60.0])
async def test_it_comes_back(bench: Any, how: str, seconds: float) -> None:
    clock = FastClock(150)
    async with bench.FakeNapCat(token="t") as napcat, running(bench, napcat.ws_uri, clock) as transport:
        await napcat.wait_connected()
        await napcat.group_message(1, 2, "before")
        await message(transport)
        await (napcat.down(seconds / clock.speed, how) if seconds else napcat.drop(how))
        await napcat.wait_connected()
        await napcat.group_message(1, 2, "after")
        assert (await message(transport))["raw_message"] == "after"
        assert transport.reconnects == 1


async def test_a_call_in_flight_fails_at_once_on_a_drop(bench: Any) -> None:
    async with bench.FakeNapCat(token="t") as napcat, running(bench, napcat.ws_uri, FastClock(1)) as transport:
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
    async with bench.FakeNapCat(token="t") as napcat, running(bench, napcat.ws_uri) as transport:
        await anext(aiter(transport.events()))
        assert await transport.call("get_login_info", {}) == {"user_id": napcat.self_id, "nickname": "FakeBot"}
        for like, ambiguous, code in (("muted", False, 120), ("kicked", False, 110), ("timeout", True, 0)):
            napcat.fail("send_msg", like=like)
            with pytest.raises(CallFailed) as failed:
                await transport.call("send_msg", {})
            assert (failed.value.ambiguous, failed.value.result(code), failed.value.retcode) == (ambiguous, True, 1200)
        napcat.hang("get_version_info")  # not what a silent connection is probed with
        with pytest.raises(CallLost):
            await transport.call("get_version_info", {})
        calls = [transport.call("get_group_info", {"group_id": n}) for n in range(1, 40)]
        assert [found["group_id"] for found in await asyncio.gather(*calls)] == list(range(1, 40))


async def test_a_half_open_connection_is_noticed(bench: Any) -> None:
    async with bench.FakeNapCat(token="t", heartbeat=0) as napcat, running(bench, napcat.ws_uri) as transport:
        await anext(aiter(transport.events()))
        napcat.stall()
        await napcat.wait(lambda: napcat.connections_total >= 2, 10, "a second connection")
        napcat.stall(False)
        await napcat.drop("abort")
        await napcat.wait_connected()
        await napcat.group_message(1, 2, "back")
        assert (await message(transport))["raw_message"] == "back"


async def test_a_napcat_without_heartbeats_is_asked_and_kept(bench: Any) -> None:
    fast = FastClock(200)
    async with bench.FakeNapCat(token="t", heartbeat=0) as napcat, running(bench, napcat.ws_uri, fast) as transport:
        await anext(aiter(transport.events()))
        await napcat.wait_call("get_status", count=4)  # some three minutes of the fast clock
        assert napcat.connections_total == 1


async def test_a_wrong_token_ends_it_with_a_sentence(bench: Any) -> None:
    async with bench.FakeNapCat(token="t") as napcat:
        with pytest.raises(Refused, match="NAPCAT_TOKEN"):
            await made(bench, napcat.ws_uri, "wrong").run()
        assert napcat.auth_failures == 1


async def test_no_address_ends_it_with_a_sentence(bench: Any) -> None:
    with pytest.raises(Refused, match=r"napcat\.url"):
        await made(bench, "127.0.0.1:3001").run()


async def test_frames_that_are_none_are_passed_over(bench: Any) -> None:
    async def odd(socket: Any) -> None:
        for frame in ("{", "[1]", "3", '"x"', '{"echo": {"a": 1}}', "[" * 100_000, b"\xff\xfe"):
            await socket.send(frame)
        await socket.send('{"post_type": "message", "n": "繁"}'.encode("big5"), text=True)
        await socket.send(json.dumps({"post_type": "message", "n": 1}))
        await socket.wait_closed()

    async with serve(odd, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running(bench, f"ws://127.0.0.1:{port}") as transport:
            assert (await message(transport))["n"] == 1
            assert transport.reconnects == 0


async def test_what_an_event_holds_reaches_the_bridge(bench: Any) -> None:
    """Whatever segments it has, whatever is missing, in order; ncatbot by itself drops all but the first."""
    odd = [
        [bench.text("plain")],
        *([{"type": kind, "data": {"x": 1}}, bench.text("hm")] for kind in ("mface", "contact", "miniapp", "hologram")),
        [bench.forward("1"), bench.text("beside it")],
        [],
        [{"type": "text"}],
        [
            bench.image(),
            bench.record(),
            bench.file(),
            bench.json_card({"prompt": "x"}),
            bench.face(14),
            bench.at("all"),
        ],
    ]
    async with bench.FakeNapCat(token="t") as napcat, running(bench, napcat.ws_uri) as transport:
        await napcat.wait_connected()
        for segments in odd:
            await napcat.group_message(1, 2, segments)
        await napcat.inject({**napcat.events[-1], "sender": None})
        await napcat.inject({**napcat.events[-2], "group_id": "7", "message": "[CQ:face,id=1]a"})
        expected = [event for event in napcat.events if event["post_type"] == "message"]
        assert [await message(transport) for _ in expected] == expected
        assert len(expected) == len(odd) + 2


async def test_delays_begin_anew_after_each_success(bench: Any) -> None:
    class Noting(FastClock):
        def __init__(self) -> None:
            super().__init__(500)
            self.delays: list[float] = []

        async def sleep(self, seconds: float) -> None:
            self.delays.append(seconds)
            await super().sleep(seconds)

    clock = Noting()
    async with bench.FakeNapCat(token="t") as napcat, running(bench, napcat.ws_uri, clock) as transport:
        events = transport.events()
        for n in range(1, 6):
            while (await anext(events)).get("meta_event_type") != "connected":
                pass
            await napcat.drop("abort")
            await napcat.wait(lambda n=n: napcat.connections_total > n)
    assert len([delay for delay in clock.delays if delay <= 1.5]) == 5
    assert not [delay for delay in clock.delays if 1.5 < delay < 9]  # those above are of the watch


def test_delays_grow_to_half_a_minute_and_start_over() -> None:
    backoff = Backoff(random.Random(1))
    delays = [next(backoff) for _ in range(50)]
    assert 0.5 <= delays[0] <= 1.5
    assert max(delays) <= 30
    assert min(delays[6:]) >= 15
    assert len(set(delays[6:20])) > 3
    backoff.reset()
    assert next(backoff) <= 1.5
