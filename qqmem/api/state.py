"""What the app's lifespan opens, and how a route asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from fastapi import Depends, Security
from fastapi.params import Depends as Dependency
from starlette.requests import HTTPConnection

from qqmem.api.auth import Allow, Caller, Guard
from qqmem.api.bridges import Bridges
from qqmem.api.hub import Hub
from qqmem.api.metrics import Metrics
from qqmem.api.tally import Tally
from qqmem.chat import Chats
from qqmem.engine.worker import Engine
from qqmem.history import History
from qqmem.learn import Learn
from qqmem.memory.memories import Memories
from qqmem.recollection import Recollections
from qqmem.schedule import Schedule
from qqmem.settings import Settings
from qqmem.settings_train import Train
from qqmem.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Limits:
    """message_chars: of a text. send_seconds: how long a client may leave unread what is sent to it."""

    message_chars: int
    send_seconds: float


@dataclass(slots=True)
class Condition:
    """How the service is. model: its name. failure: one sentence, once the model has failed."""

    model: str
    engine: Engine
    stopping: asyncio.Event
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Training:
    """What the lifespan opens for these routes, as `training` of the state."""

    learn: Learn
    schedule: Schedule
    settings: Train


class State(TypedDict):
    """Every request and WebSocket has it as `.state`.

    sockets: the task of each WebSocket that is open. drain: ends all conversations, as leaving the lifespan would.
    """

    settings: Settings
    chats: Chats
    history: History
    memories: Memories
    recollections: Recollections
    training: Training
    guard: Guard
    metrics: Metrics
    tally: Tally
    hub: Hub
    bridges: Bridges
    uploads: Uploads
    condition: Condition
    limits: Limits
    sockets: set[asyncio.Task[Any]]
    drain: Callable[[], Awaitable[None]]


def _of_state(key: str) -> Dependency:
    async def get(connection: HTTPConnection) -> Any:  # were it not async, it would run on a thread
        return connection.state[key]

    return Depends(get)  # type: ignore[no-any-return]


TheSettings = Annotated[Settings, _of_state("settings")]
TheChats = Annotated[Chats, _of_state("chats")]
TheHistory = Annotated[History, _of_state("history")]
TheMemories = Annotated[Memories, _of_state("memories")]
TheRecollections = Annotated[Recollections, _of_state("recollections")]
TheTraining = Annotated[Training, _of_state("training")]
TheGuard = Annotated[Guard, _of_state("guard")]
TheMetrics = Annotated[Metrics, _of_state("metrics")]
TheTally = Annotated[Tally, _of_state("tally")]
TheHub = Annotated[Hub, _of_state("hub")]
TheBridges = Annotated[Bridges, _of_state("bridges")]
TheUploads = Annotated[Uploads, _of_state("uploads")]
TheCondition = Annotated[Condition, _of_state("condition")]
TheLimits = Annotated[Limits, _of_state("limits")]
TheSockets = Annotated[set[asyncio.Task[Any]], _of_state("sockets")]

Chatter = Annotated[Caller, Security(Allow("chat"))]
Bridger = Annotated[Caller, Security(Allow("bridge"))]
Reader = Annotated[Caller, Security(Allow("read"))]
Admin = Annotated[Caller, Security(Allow("admin"))]
