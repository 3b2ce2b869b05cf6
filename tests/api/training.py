"""A service that has only the routes to training: a real socket and real stores; trainers are played."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from qqmem.api import training as routes
from qqmem.api.auth import Guard, RateLimit
from qqmem.api.problems import add_handlers
from qqmem.api.state import Training
from qqmem.memory.words import Segmenter
from qqmem.schedule import Rule, Schedule
from qqmem.settings import Scope, Token
from qqmem.settings_train import Train
from tests.learning import Bot, learning


@dataclass
class Teaching:
    http: httpx.AsyncClient
    url: str
    bot: Bot

    async def get(self, route: str, **params: Any) -> Any:
        answer = await self.http.get(f"/api/training/{route}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, route: str, body: Any = None) -> httpx.Response:
        return await self.http.post(f"/api/training/{route}", json=body)

    async def run(self) -> Any:
        """A run, to its end."""
        answer = await self.post("trigger")
        assert answer.status_code == 200, answer.text
        await self.bot.learn.wait()
        return await self.get(f"runs/{answer.json()['run']['id']}")


class _Server(uvicorn.Server):
    up: asyncio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def teaching(
    folder: Path, segmenter: Segmenter, tokens: Mapping[str, Scope] | None = None, **settings: Any
) -> AsyncIterator[Teaching]:
    """tokens: scopes by name; the secret of a name is `name-secret`. settings: of the section train."""
    known = [Token(name=name, token=SecretStr(f"{name}-secret"), scopes=(one,)) for name, one in (tokens or {}).items()]
    train = Train(**settings)
    async with learning(folder, segmenter, **settings) as bot:
        rule = Rule(train.hour, train.first_delay, train.interval) if train.enabled else None
        schedule = Schedule(bot.learn.runs, rule, lambda: bot.learn.trigger("schedule"), bot.learn.tidy)
        state = {
            "training": Training(bot.learn, schedule, train),
            "history": bot.history,
            "guard": Guard(known, (), RateLimit(0)),
        }

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
            yield state

        app = FastAPI(lifespan=lifespan)
        add_handlers(app)
        app.include_router(routes.router)
        with socket.socket() as listen:
            listen.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listen.getsockname()[1]}"
            server = _Server(uvicorn.Config(app, log_config=None))
            server.up = asyncio.Event()
            serving = asyncio.create_task(server.serve([listen]))
            await server.up.wait()
            try:
                async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
                    yield Teaching(http, url, bot)
            finally:
                server.should_exit = True
                await serving
