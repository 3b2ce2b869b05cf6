"""Clients that stop reading what is sent to them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from qqmem.api.outbox import MOST_WAITING
from qqmem.records import Incoming, Sender
from tests.api.conftest import Service, Stage, Talk, listener, make_settings, running


async def connected(service: Service) -> socket.socket:
    """A socket with buffers as small as they can be."""
    ours = socket.socket()
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        ours.setsockopt(socket.SOL_SOCKET, buffer, 1)
    ours.setblocking(False)
    await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", service.port))
    return ours


@asynccontextmanager
async def deaf(service: Service) -> AsyncIterator[Talk]:
    """A client that reads nothing."""
    async with service.talk(sock=await connected(service), max_queue=1, compression=None) as talk:
        yield talk
        talk.connection.transport.abort()


async def cut_off(service: Service) -> None:
    """Wait until the service has given the socket up."""
    if sockets := service.state["sockets"]:
        await asyncio.wait(sockets)


async def test_a_client_that_stops_reading_is_cut_off_and_slows_nobody(tmp_path: Path) -> None:
    stage = Stage(lambda prompt: "长" * 200 if "讲" in prompt else "好的。", width=1000)
    settings, listen = make_settings(tmp_path), listener(SO_SNDBUF=1)
    async with running(settings, stage, listen=listen, send_seconds=2) as service, deaf(service) as talk:
        await talk.say("讲个长故事")
        assert (await service.private("你好", user=2)).json()["outcome"] == "replied"
        await cut_off(service)
        assert await service.outcomes() == ["replied"], "it was written to its end, although nobody read it"


async def test_a_client_that_stops_reading_in_the_middle_leaves_its_turn(tmp_path: Path) -> None:
    stage = Stage(lambda _: "长" * 100_000, held=True, width=100)
    settings, listen = make_settings(tmp_path), listener(SO_SNDBUF=1)
    async with running(settings, stage, listen=listen, send_seconds=0.5) as service, deaf(service) as talk:
        await talk.say("讲个长故事")
        stage.go(2000)
        await service.stage.begun()
        await cut_off(service)
        assert await service.outcomes() == ["cancelled"]


async def test_a_client_that_sends_but_never_reads_is_not_listened_to_for_ever(tmp_path: Path) -> None:
    settings, listen = make_settings(tmp_path), listener(SO_SNDBUF=1, SO_RCVBUF=1)
    async with running(settings, Stage(), listen=listen, send_seconds=2) as service, deaf(service) as talk:
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await talk.connection.send('{"type": "' + "x" * 200 + '"}')
                sent += 1

        flooding = asyncio.create_task(flood())
        await cut_off(service)
        flooding.cancel()
        await asyncio.wait([flooding])
        assert sent < 3 * MOST_WAITING, "long before, it was no longer listened to"
        assert (await service.private("你好")).json()["outcome"] == "replied"


async def request_and_never_read(service: Service, request: str) -> socket.socket:
    ours = await connected(service)
    await asyncio.get_running_loop().sock_sendall(ours, request.encode())
    return ours


async def test_a_client_that_stops_reading_its_events_leaves_its_turn(tmp_path: Path) -> None:
    stage = Stage(lambda _: "长" * 100_000, held=True, width=1000)
    settings, listen = make_settings(tmp_path), listener(SO_SNDBUF=1)
    async with running(settings, stage, listen=listen, send_seconds=0.5) as service:
        body = json.dumps({"user_id": 10001, "content": "讲个长故事"})
        head = "POST /api/chat/private?stream=true HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        with await request_and_never_read(service, f"{head}Content-Length: {len(body)}\r\n\r\n{body}"):
            await stage.begun()
            stage.go(1000)
            await service.left()
            assert await service.outcomes() == ["cancelled"]


async def test_an_export_that_is_left_or_not_read_harms_nobody(tmp_path: Path) -> None:
    settings, listen = make_settings(tmp_path), listener(SO_SNDBUF=1)
    async with running(settings, Stage(), listen=listen, send_seconds=2.0) as service:
        await service.private("开始")
        (first, *_), _ = await service.stored()
        for _ in range(50):
            said = Incoming("private:10001", Sender("10001", "小明"), "长" * 20_000, first.time)
            await service.state["history"].add(said)
        url = "/api/conversations/private:10001/export"
        async with service.http.stream("GET", url) as response:
            async for _ in response.aiter_raw():
                break
        with await request_and_never_read(service, f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
            assert len((await service.http.get(url)).text.splitlines()) == 50 + 2 + 1
            await service.left()
