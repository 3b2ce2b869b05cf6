"""A real service on a real socket, with a model that recites what the test wants."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect

from qqmem.api.state import State
from qqmem.app import create_app
from qqmem.engine.types import Model, Row, Vector
from qqmem.errors import NotFound
from qqmem.listening import Server
from qqmem.records import Message, Turn
from qqmem.settings import Chat, Generation, Memory, Recall, Server as ServerSettings, Settings
from tests.fakes_engine import END, CharDetokenizer, CharTokenizer, Recital, ScriptedModel

HOLD = END + 100
"""A token without text, written while the test holds the model."""


class _Detokenizer(CharDetokenizer):
    def __init__(self, width: int) -> None:
        self._width = width

    def step(self, token: int) -> str:
        return "" if token == HOLD else super().step(token) * self._width


class _Tokenizer(CharTokenizer):
    def __init__(self, *, thinks: bool, width: int) -> None:
        super().__init__(thinks=thinks)
        self._width = width

    def detokenizer(self) -> CharDetokenizer:
        return _Detokenizer(self._width)


class _HeldModel(ScriptedModel):
    """Writes nothing but HOLD without a permit, so that other requests still come and go between its steps."""

    permits: threading.Semaphore

    def step(self, rows: Sequence[Row]) -> list[int | Vector | None]:
        time.sleep(0.001)
        return super().step(rows)

    def _advance(self, row: Row) -> int | Vector | None:
        if row.want == "token" and not self.permits.acquire(blocking=False):
            assert isinstance(row.running, Recital)
            row.running.script.insert(0, HOLD)
        return super()._advance(row)


class Stage:
    """The model as the test sees it, from the event loop.

    held: no character is written before go(). width: how often each character of the script is repeated.
    """

    def __init__(
        self,
        script: Callable[[str], str] = lambda prompt: "好的。",
        *,
        held: bool = False,
        thinks: bool = False,
        width: int = 1,
        tokenizer: CharTokenizer | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._script = script
        self._tokenizer = tokenizer or _Tokenizer(thinks=thinks, width=width)
        self._permits = threading.Semaphore(0 if held else 10**9)
        self._begun: asyncio.Queue[str] = asyncio.Queue()

    def load(self) -> Model:
        model = _HeldModel(self._recite, tokenizer=self._tokenizer)
        model.permits = self._permits
        return cast(Model, model)

    def _recite(self, prompt: str) -> str:
        self._loop.call_soon_threadsafe(self._begun.put_nowait, prompt)
        return self._script(prompt)

    async def begun(self) -> str:
        """The next prompt that the model is asked to answer."""
        return await self._begun.get()

    def go(self, characters: int = 10_000) -> None:
        self._permits.release(characters)


class Talk:
    """A client's end of /ws/chat."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame, ensure_ascii=False))

    async def say(self, text: str, conversation: str = "private:10001", **more: Any) -> None:
        await self.send(
            type="message", conversation=conversation, sender={"id": 10001, "name": "小明"}, text=text, **more
        )

    async def next(self) -> dict[str, Any]:
        frame = json.loads(await self.connection.recv())
        assert isinstance(frame, dict)
        return frame

    async def until(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Frames up to and including the first of this type that has these fields."""
        frames = [await self.next()]
        while not (frames[-1]["type"] == kind and fields.items() <= frames[-1].items()):
            frames.append(await self.next())
        return frames


@dataclass
class Service:
    server: Server
    port: int
    stage: Stage
    http: httpx.AsyncClient
    failures: list[BaseException] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.server.state

    @asynccontextmanager
    async def talk(self, **options: Any) -> AsyncIterator[Talk]:
        async with connect(f"ws://127.0.0.1:{self.port}/ws/chat", **options) as connection:
            yield Talk(connection)

    async def private(self, content: str, user: str | int = 10001, **more: Any) -> httpx.Response:
        return await self.http.post("/api/chat/private", json={"user_id": user, "content": content, **more})

    async def group(self, content: str, group: str | int = 20002, **more: Any) -> httpx.Response:
        body = {"group_id": group, "user_id": 10001, "content": content, **more}
        return await self.http.post("/api/chat/group", json=body)

    async def stored(self, conversation: str = "private:10001") -> tuple[list[Message], list[Turn]]:
        """All messages and turns, as they are on disk."""
        try:
            messages = await self.state["history"].messages(conversation, 1000)
        except NotFound:
            return [], []
        ids = {message.turn for message in messages if message.turn is not None}
        return messages, await self.state["history"].turns(conversation, ids)

    async def outcomes(self, conversation: str = "private:10001") -> list[str]:
        """How the turns of a conversation have ended, once it has done all that it was told before."""
        await self.state["chats"].withdraw(conversation, "nothing")
        return [turn.end.outcome for turn in (await self.stored(conversation))[1]]

    async def left(self) -> None:
        """Wait until the service is done with every request and every socket."""
        if tasks := self.server.server_state.tasks:
            await asyncio.wait(tasks)


class _Observed(Server):
    """Says when it listens."""

    up: asyncio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


def make_settings(
    data: Path,
    *,
    chat: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> Settings:
    """Settings of a test: no waiting for more messages, and as many tokens as a model that is held may need."""
    return Settings(
        data=data,
        token=SecretStr(token) if token else None,
        chat=Chat(**{"merge_window": 0.0, **(chat or {})}),
        generation=Generation(**{"max_new_tokens": 50_000, **(generation or {})}),
        server=ServerSettings(**{"drain_seconds": 5.0, **(server or {})}),
        memory=Memory(encoder="none"),
        recall=Recall(trigger="off"),
    )


def listener(**options: int) -> socket.socket:
    """A socket on some free port. options: of SOL_SOCKET, such as SO_SNDBUF; accepted connections have them too."""
    found = socket.socket()
    for name, value in options.items():
        found.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    found.bind(("127.0.0.1", 0))
    return found


@asynccontextmanager
async def running(
    settings: Settings,
    stage: Stage,
    *,
    load_model: Callable[[], Model] | None = None,
    listen: socket.socket | None = None,
    **options: Any,
) -> AsyncIterator[Service]:
    """The service, stopped in order at the end. options: of create_app."""
    failures: list[BaseException] = []
    app = create_app(settings, load_model=load_model or stage.load, on_failure=failures.append, **options)
    server = _Observed(app, settings, log_config=None)
    server.up = asyncio.Event()
    async with AsyncExitStack() as ending:
        listen = ending.enter_context(listen or listener())
        port = listen.getsockname()[1]
        serving = asyncio.create_task(server.serve([listen]))
        up = asyncio.create_task(server.up.wait())
        await asyncio.wait((serving, up), return_when=asyncio.FIRST_COMPLETED)
        if up.cancel():  # it is not up: it could not begin
            await serving
        try:
            http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
            yield Service(server, port, stage, await ending.enter_async_context(http), failures)
        finally:
            stage.go()
            server.should_exit = True
            await serving


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service in local mode, whose model says 好的。"""
    async with running(make_settings(tmp_path), Stage()) as found:
        yield found
