"""A service that has only the routes to memories: a real socket and a real store, without a model."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from qqmem.api import memories as routes, memory_map
from qqmem.api.auth import Guard, RateLimit
from qqmem.api.problems import BodyLimit, add_handlers
from qqmem.api.state import Limits
from qqmem.db import Database
from qqmem.memory.memories import Memories
from qqmem.memory.types import Encoder, Kind, Memory, NewMemory
from qqmem.settings import Scope, Token

MAX_BODY = 2**20 + 240_000


@dataclass
class Remembering:
    http: httpx.AsyncClient
    url: str
    memories: Memories

    async def tell(self, text: str, scope: str = "user:10001", **more: Any) -> dict[str, Any]:
        """A fact, as the route answers it."""
        answer = await self.http.post("/api/memories", json={"text": text, "scope": scope, **more})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def remember(self, *texts: str, scope: str = "user:10001", kind: Kind = "fact") -> list[Memory]:
        """Memories as others store them."""
        new = [NewMemory(kind, scope, text, datetime.now(UTC), "10001", "10001", "小明") for text in texts]
        return await self.memories.add(new, "test")


class _Server(uvicorn.Server):
    up: asyncio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def remembering(
    folder: Path, tokens: Mapping[str, Scope] | None = None, *, encoder: Encoder | None = None
) -> AsyncIterator[Remembering]:
    """tokens: scopes by name; the secret of a name is `name-secret`."""
    known = [Token(name=name, token=SecretStr(f"{name}-secret"), scopes=(one,)) for name, one in (tokens or {}).items()]
    async with Database.open(folder) as db, Memories.open(db, encoder, folder) as memories:
        state = {
            "memories": memories,
            "guard": Guard(known, (), RateLimit(0)),
            "limits": Limits(20_000, 20.0),
        }

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
            yield state

        app = FastAPI(lifespan=lifespan)
        add_handlers(app)
        app.include_router(memory_map.router)
        app.include_router(routes.router)
        app.add_middleware(BodyLimit, max_bytes=MAX_BODY)
        with socket.socket() as listen:
            listen.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listen.getsockname()[1]}"
            server = _Server(uvicorn.Config(app, log_config=None))
            server.up = asyncio.Event()
            serving = asyncio.create_task(server.serve([listen]))
            await server.up.wait()
            try:
                async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
                    yield Remembering(http, url, memories)
            finally:
                server.should_exit = True
                await serving
