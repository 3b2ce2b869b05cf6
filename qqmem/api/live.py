"""The WebSocket of those who watch: dashboards, above all."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, WebSocket

from qqmem.api.auth import Caller
from qqmem.api.hub import Hub, Watcher
from qqmem.api.socket import BUG, LOGGED_OUT, RESTART, send
from qqmem.api.state import Limits, Reader, TheCondition, TheHub, TheLimits, TheSockets

log = logging.getLogger(__name__)

router = APIRouter()

READ_ONLY = 1008
_REASONS = {READ_ONLY: "This socket is only to be read; talk on /ws/chat."}


@router.websocket("/ws/live")
async def live_socket(
    socket: WebSocket,
    caller: Reader,
    hub: TheHub,
    limits: TheLimits,
    condition: TheCondition,
    sockets: TheSockets,
) -> None:
    """Watch all conversations, the memory and the training; docs/protocol.md has the frames."""
    task = asyncio.current_task()
    assert task is not None, "a route runs in a task"
    sockets.add(task)
    try:
        await LiveSocket(socket, caller, hub, limits).serve(condition.stopping)
    finally:
        sockets.discard(task)


class LiveSocket:
    """Sends to one watcher until it leaves, stops reading, says something, or the service stops."""

    def __init__(self, socket: WebSocket, caller: Caller, hub: Hub, limits: Limits) -> None:
        self._socket = socket
        self._caller = caller
        self._hub = hub
        self._limits = limits

    async def serve(self, stopping: asyncio.Event) -> None:
        """Run to the end. stopping: once set, the socket closes."""
        await self._socket.accept()
        try:
            code = await self._run(stopping)
        except Exception:  # a bug, which the client learns by the close code
            log.exception("a WebSocket of %s has failed", self._caller.name)
            code = BUG
        if code is not None:
            message = {"type": "websocket.close", "code": code, "reason": _REASONS.get(code, "")}
            await send(self._socket, message, self._limits.send_seconds, self._caller.name)

    async def _run(self, stopping: asyncio.Event) -> int | None:
        """Returns the code to close with; None if there is nobody to tell."""
        with self._hub.watch() as watcher:
            async with asyncio.TaskGroup() as group:
                told = group.create_task(stopping.wait())
                both = group.create_task(self._read()), group.create_task(self._write(watcher))
                await asyncio.wait((told, *both), timeout=self._caller.seconds, return_when=asyncio.FIRST_COMPLETED)
                ended = next((task for task in both if task.done()), None)
                for task in (told, *both):
                    task.cancel()
        if ended is not None:
            return ended.result()
        return RESTART if stopping.is_set() else LOGGED_OUT

    async def _read(self) -> int | None:
        message = await self._socket.receive()
        return None if message["type"] == "websocket.disconnect" else READ_ONLY

    async def _write(self, watcher: Watcher) -> int | None:
        while (batch := await watcher.take()) is not None:
            message = {"type": "websocket.send", "text": batch}
            if not await send(self._socket, message, self._limits.send_seconds, self._caller.name):
                return None
        return BUG  # only a fault of ours closes a watcher that is read
