"""The bridge's end of /ws/bridge, in the hands of the test."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.api.conftest import Service

SELF = "999"
PRIVATE, GROUP = "private:10001", "group:20002"


class FarEnd:
    """welcome: the answer to hello. seen: all other frames, as they were read."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.welcome: dict[str, Any] = {}
        self.seen: list[dict[str, Any]] = []

    async def send(self, type: str, **frame: Any) -> None:
        await self.connection.send(json.dumps({"type": type, **frame}, ensure_ascii=False))

    async def hello(self, name: str = "home", **more: Any) -> None:
        await self.send("hello", **{"protocol": 1, "bridge": name, "self_id": SELF, "last_acked": 0, **more})
        self.welcome = await self.next()
        assert self.welcome["type"] == "welcome", self.welcome

    async def say(self, seq: int, text: str = "你好", conversation: str = PRIVATE, **more: Any) -> None:
        """Its id on the platform is the hundredfold of seq."""
        sender = {"id": "10001", "name": "小明"}
        said = {"conversation": conversation, "message_id": str(100 * seq), "sender": sender, "text": text}
        await self.send("message", seq=seq, **{**said, "time": "2026-11-22T17:00:00+08:00", **more})

    async def delivered(self, delivery: dict[str, Any], *ids: str, status: str = "sent", **more: Any) -> None:
        number = delivery["delivery_id"]
        await self.send("delivered", delivery_id=number, status=status, message_ids=ids, **more)
        await self.settled()

    async def next(self) -> dict[str, Any]:
        frame = json.loads(await self.connection.recv())
        assert isinstance(frame, dict)
        return frame

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next frame of this type that has these fields."""
        while True:
            frame = await self.next()
            self.seen.append(frame)
            if frame["type"] == kind and fields.items() <= frame.items():
                return frame

    async def settled(self) -> None:
        """All frames before this one are obeyed."""
        await self.send("ping")
        await self.until("pong")

    async def closed(self) -> int | None:
        with pytest.raises(ConnectionClosed):
            await self.until("never")
        return self.connection.close_code

    def all(self, kind: str) -> list[dict[str, Any]]:
        """All that were seen of this type."""
        return [frame for frame in self.seen if frame["type"] == kind]


@asynccontextmanager
async def far_end(service: Service, name: str = "home", *, greet: bool = True, **options: Any) -> AsyncIterator[FarEnd]:
    """A bridge that is connected and, with greet, welcome."""
    async with connect(f"ws://127.0.0.1:{service.port}/ws/bridge", **options) as connection:
        end = FarEnd(connection)
        if greet:
            await end.hello(name)
        yield end


def image(data: Path, copy: Path) -> Path:
    """A folder `copy` with what a kill -9 would leave of `data` now: all that is committed, and nothing else."""
    copy.mkdir(parents=True)
    with closing(sqlite3.connect(data / "qqmem.db")) as one, closing(sqlite3.connect(copy / "qqmem.db")) as other:
        one.backup(other)
    return copy


async def texts(service: Service, conversation: str = PRIVATE) -> list[str]:
    """What was said, by all."""
    return [message.text for message in (await service.stored(conversation))[0]]
