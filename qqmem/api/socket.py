"""One connection to /ws/chat: it reads frames, waits for several replies at once, and has one writer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.types import Message

from qqmem.api import convert, frames
from qqmem.api.auth import Caller, Guard
from qqmem.api.outbox import Outbox
from qqmem.api.problems import note, sentence
from qqmem.api.state import Limits
from qqmem.api.wire import ErrorBody, to_json
from qqmem.chat import Chats, Reply
from qqmem.errors import InvalidRequest, NotFound, QqmemError, RateLimited

log = logging.getLogger(__name__)

MOST_REPLIES = 64
"""Replies that one socket may wait for."""
BINARY, RESTART, BUG, LOGGED_OUT = 1003, 1012, 1011, 4401


async def send(socket: WebSocket, message: Message, seconds: float, name: str) -> bool:
    """False if the client is gone, or has not read for too long. name: of who it is, for the log."""
    try:
        async with asyncio.timeout(seconds):
            await socket.send(message)
    except TimeoutError:
        log.info("a WebSocket of %s has stopped reading", name)
        return False
    except (WebSocketDisconnect, RuntimeError):  # RuntimeError: the server has closed it by itself
        return False
    return True


class Socket:
    """Speaks with one client until it leaves, stops reading, or the service stops.

    However it ends, the replies that the client waited for are left.
    """

    def __init__(self, socket: WebSocket, caller: Caller, chats: Chats, guard: Guard, limits: Limits) -> None:
        self._socket = socket
        self._caller = caller
        self._chats = chats
        self._guard = guard
        self._limits = limits
        self._outbox = Outbox()
        self._replies: set[asyncio.Task[None]] = set()

    async def serve(self, stopping: asyncio.Event) -> None:
        """Run to the end. stopping: once set, what is being written may end, and then the socket closes."""
        await self._socket.accept()
        try:
            code = await self._run(stopping)
        except Exception:  # a bug, which the client learns by the close code
            log.exception("a WebSocket of %s has failed", self._caller.name)
            code = BUG
        if code is not None:
            await self._send({"type": "websocket.close", "code": code})

    async def _run(self, stopping: asyncio.Event) -> int | None:
        """Returns the code to close with; None if there is nobody to tell."""
        async with asyncio.TaskGroup() as self._group:
            reading = self._group.create_task(self._read())
            writing = self._group.create_task(self._write())
            told = self._group.create_task(stopping.wait())
            tasks, seconds = (reading, writing, told), self._caller.seconds
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            code = reading.result() if reading.done() else None if done else LOGGED_OUT
            if told.done() and not reading.done() and not writing.done():
                reading.cancel()
                await self._finish(writing)
                code = RESTART
            for task in (reading, writing, told, *self._replies):
                task.cancel()
        return code

    async def _finish(self, writing: asyncio.Task[None]) -> None:
        """Wait until the last replies have ended and are sent."""
        if self._replies:
            await asyncio.wait(self._replies)
        self._outbox.close()
        await asyncio.wait((writing,))

    # ---- out ---------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while (frame := await self._outbox.take()) is not None:
            if not await self._send({"type": "websocket.send", "text": to_json(frame)}):
                return

    async def _send(self, message: Message) -> bool:
        return await send(self._socket, message, self._limits.send_seconds, self._caller.name)

    async def _relay(self, reply: Reply) -> None:
        async with aclosing(reply):
            async for event in reply:
                self._outbox.put(convert.to_frame(event, reply.message.id))

    # ---- in ----------------------------------------------------------------------------------------------------------

    async def _read(self) -> int | None:
        """Take frames until the client leaves, or sends what cannot be one: then returns a close code."""
        while True:
            await self._outbox.room()
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            if message.get("text") is None:
                return BINARY
            await self._take(message["text"])

    async def _take(self, text: str) -> None:
        try:
            frame = frames.CLIENT_FRAME.validate_json(text)
        except ValidationError as error:
            self._refuse(InvalidRequest(sentence(error.errors(include_url=False))))
            return
        try:
            await self._obey(frame)
        except QqmemError as error:
            note(error)
            self._refuse(error, getattr(frame, "conversation", None), getattr(frame, "message_id", None))

    def _refuse(self, error: QqmemError, conversation: str | None = None, message_id: str | None = None) -> None:
        body = ErrorBody(code=error.code, message=str(error))
        self._outbox.put(frames.ErrorFrame(error=body, conversation=conversation, message_id=message_id))

    async def _obey(self, frame: frames.ClientFrame) -> None:
        match frame:
            case frames.MessageFrame():
                await self._say(frame)
            case frames.CancelFrame():
                await self._chats.cancel(frame.conversation)
            case frames.WithdrawFrame():
                if not await self._chats.withdraw(frame.conversation, frame.message_id):
                    raise NotFound(f"There is no message {frame.message_id} in {frame.conversation}.")
            case frames.PingFrame():
                self._outbox.put(frames.PongFrame())

    async def _say(self, frame: frames.MessageFrame) -> None:
        self._guard.count(self._caller)
        if len(self._replies) >= MOST_REPLIES:
            raise RateLimited(f"This socket already waits for {MOST_REPLIES} replies; try again when some have come.")
        reply = await self._chats.send(convert.from_frame(frame, self._limits.message_chars))
        self._outbox.put(convert.accepted(reply))
        task = self._group.create_task(self._relay(reply))
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)
