"""Responses that take their time: they end when the client leaves, or stops reading."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from qqmem.api import convert
from qqmem.api.frames import ServerFrame
from qqmem.api.wire import to_json
from qqmem.chat import Reply

log = logging.getLogger(__name__)

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`; cancel it, and return None, if the client of an HTTP request leaves before."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        leaving = group.create_task(_gone(receive))
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        working.cancel()
    return None if working.cancelled() else working.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Content(Protocol):
    """Bytes that are made while they are sent."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class Stream(StreamingResponse):
    """Sends `content` and closes it, however that ends.

    Not Starlette's own way with a client that leaves: it cancels again and again, also what tidies up.
    """

    def __init__(self, content: Content, send_seconds: float, media_type: str) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy may collect it
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            async with asyncio.timeout(self._send_seconds):
                await send(message)

        async with aclosing(self._content):
            await while_connected(receive, self._send(in_time))

    async def _send(self, send: Send) -> None:
        try:
            await self.stream_response(send)
        except TimeoutError:
            log.info("a client has stopped reading its response")


class ReplyEvents:
    """A reply as server-sent events: the frames of /ws/chat."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._accepted = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return b"data: %s\n\n" % to_json(await self._next()).encode()

    async def aclose(self) -> None:
        await self._reply.aclose()

    async def _next(self) -> ServerFrame:
        if not self._accepted:
            self._accepted = True
            return convert.accepted(self._reply)
        return convert.to_frame(await anext(self._reply), self._reply.message.id)
