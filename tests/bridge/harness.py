"""A bridge between the bench and a service that a test plays by hand, on a clock that runs fast."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from qqmem_bridge.bridge import Bridge
from qqmem_bridge.errors import Refused
from qqmem_bridge.napcat import reach
from qqmem_bridge.settings import Allow, HealthSettings, Merge, Napcat, PaceSettings, Settings

Transports = Literal["onebot", "ncatbot"]
GROUP, ANN, BOB = 777, 10001, 10002


class FastClock:
    """A clock on which a second of the bridge is a few milliseconds. Times of day stay real."""

    def __init__(self, speed: float = 25.0) -> None:
        self.speed = speed
        self.ahead = 0.0
        """Seconds by which the time of day is put forward."""

    def now(self) -> float:
        return time.monotonic() * self.speed

    def time(self) -> float:
        return time.time() + self.ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)


class Changes:
    """Waits for what a test expects, woken by each change."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def tell(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def until(self, holds: Callable[[], Any], seconds: float = 10.0) -> Any:
        async with asyncio.timeout(seconds), self._condition:
            await self._condition.wait_for(holds)
        return holds()


class FakeService:
    """The service's side of the wire, on a real socket. Acks unless told not to; forgets nothing but on purpose."""

    def __init__(self, token: str = "service-token") -> None:
        self.token = token
        self.acking = True
        self.hellos: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        """Everything but hello, ping and status, in order, re-sent ones too."""
        self.statuses: list[dict[str, Any]] = []
        self.stored: dict[int, dict[str, Any]] = {}
        self.undelivered: dict[int, dict[str, Any]] = {}
        self.changes = Changes()
        self.socket: ServerConnection | None = None
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/bridge"

    @property
    def serving(self) -> bool:
        return self._server is not None

    async def up(self) -> None:
        self._server = await serve(self._serve, "127.0.0.1", self.port, close_timeout=0.2)
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def down(self) -> None:
        if self.socket is not None:
            self.socket.transport.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        if socket.request.headers.get("Authorization") != f"Bearer {self.token}":
            await socket.close(4401)
            return
        try:
            self.hellos.append(json.loads(await socket.recv()))
            await self.say(socket, type="welcome", protocol=1, resume_from=max(self.stored, default=0))
            told: set[int] = set()
            while waiting := [number for number in self.undelivered if number not in told]:  # also what comes meanwhile
                told.add(waiting[0])
                await self.say(socket, **self.undelivered[waiting[0]])
            self.socket = socket
            await self.changes.tell()
            async for raw in socket:
                await self._take(socket, json.loads(raw))
        except ConnectionClosed:
            pass
        finally:
            if self.socket is socket:
                self.socket = None
            await self.changes.tell()

    async def _take(self, socket: ServerConnection, frame: dict[str, Any]) -> None:
        if frame["type"] == "ping":
            await self.say(socket, type="pong")
        elif frame["type"] == "status":
            self.statuses.append(frame)
        else:
            self.frames.append(frame)
            if frame["type"] == "delivered":
                self.undelivered.pop(frame["delivery_id"], None)
            elif self.acking:
                self.stored[frame["seq"]] = frame
                await self.say(socket, type="ack", seq=frame["seq"])
        await self.changes.tell()

    async def say(self, socket: ServerConnection | None = None, **frame: Any) -> None:
        to = socket or self.socket
        assert to is not None
        await to.send(json.dumps(frame))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def wait(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The count-th frame of a kind."""
        await self.changes.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def connected(self) -> None:
        await self.changes.until(lambda: self.socket is not None)

    async def deliver(self, number: int, text: str | list[str], *, chat: str = f"group:{GROUP}", **more: Any) -> None:
        """A reply, kept until its outcome is told; sent at once if the bridge is there."""
        parts = [text] if isinstance(text, str) else text
        frame: dict[str, Any] = {
            "type": "delivery",
            "delivery_id": number,
            "conversation": chat,
            "in_reply_to": [],
            "parts": parts,
        }
        frame |= {"actions": [], "created": "2026-11-23T00:00:00+00:00", **more}
        self.undelivered[number] = frame
        if self.socket is not None:
            await self.say(**frame)

    async def outcome(self, number: int) -> dict[str, Any]:
        def told() -> list[dict[str, Any]]:
            return [frame for frame in self.of("delivered") if frame["delivery_id"] == number]

        await self.changes.until(told)
        return told()[0]


@asynccontextmanager
async def running_service() -> AsyncIterator[FakeService]:
    """A service that is up, and down in the end."""
    service = FakeService()
    await service.up()
    try:
        yield service
    finally:
        await service.down()


class Scene:
    """What a test has in its hands."""

    def __init__(
        self, napcat: Any, service: FakeService, folder: Path, clock: FastClock, transport: Transports, **settings: Any
    ) -> None:
        self.napcat = napcat
        self.service = service
        self.clock = clock
        self.settings = Settings(
            service=service.url,
            token=SecretStr(service.token),
            data=folder,
            transport=transport,
            napcat=Napcat(url=napcat.ws_uri, token=SecretStr(napcat.token)),
            **{
                "allow": Allow(groups=(str(GROUP), "888888"), users=(str(ANN),), admins=(str(BOB),)),
                "merge": Merge(quiet=0.1, longest=1, most=10),
                "pace": PaceSettings(gap=0, jitter=0, per_minute=10000, burst=10000),
                "health": HealthSettings(port=0),
                **settings,
            },
        )
        self.bridge: Bridge
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start a bridge on the same folder, and wait until both ends are there."""
        before = len(self.service.hellos)
        chance = random.Random(1)
        transport = reach(self.settings, self.clock, call_timeout=10, chance=chance)
        self.bridge = Bridge(self.settings, transport, self.clock, chance)
        self.running = asyncio.create_task(self.bridge.run())
        await self.napcat.wait_connected()
        if self.service.serving:
            await self.service.changes.until(lambda: len(self.service.hellos) > before and self.service.socket)

    async def waiting(self, count: int) -> None:
        """Until so many frames wait for the service."""
        while (await self.bridge.store.depth())[0] < count:
            pass

    async def kill(self) -> None:
        """As a kill does: nothing that is in memory survives."""
        if self.running is not None:
            self.running.cancel()
            (end,) = await asyncio.gather(self.running, return_exceptions=True)
            self.running = None
            assert isinstance(end, asyncio.CancelledError | Refused), end


async def _beat(napcat: Any) -> None:
    """Heartbeats that tell of 30 s, as fast as the clock runs."""
    while True:
        status = {"online": napcat.online, "good": True}
        await napcat.inject(
            {"post_type": "meta_event", "meta_event_type": "heartbeat", "status": status, "interval": 30000}
        )
        await asyncio.sleep(0.2)


@asynccontextmanager
async def scene(bench: Any, folder: Path, *, start: bool = True, **settings: Any) -> AsyncIterator[Scene]:
    """A bridge, running."""
    async with running_service() as service, bench.FakeNapCat(token="napcat-token", heartbeat=0) as napcat:
        beating = asyncio.create_task(_beat(napcat))
        found = Scene(napcat, service, folder, FastClock(), bench.transport, **settings)
        try:
            if start:
                await found.start()
            yield found
        finally:
            beating.cancel()
            await found.kill()
