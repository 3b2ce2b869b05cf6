"""The server that runs the app: the limits of its sockets, and an end in order."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from qqmem.api.state import State
from qqmem.settings import Settings

FLUSH_SECONDS = 2.0
"""How long, at the end, clients have to read what was written for them."""


def largest(settings: Settings) -> int:
    """Bytes of a body or frame: JSON may spell a character with twelve, and the other fields need some room."""
    return 2**20 + 12 * settings.chat.max_message_chars


class Server(uvicorn.Server):
    """uvicorn, with a beginning and an end of our own. state: what the app's lifespan has opened.

    An error while the parts are opened is raised by serve(), not logged as a traceback. SIGTERM and Ctrl-C end it in
    order: no new connections, replies may end, clients get them, sockets close, parts close; serve() returns.
    """

    def __init__(self, app: FastAPI, settings: Settings, **options: Any) -> None:
        """options: of uvicorn.Config."""
        config = uvicorn.Config(
            app,
            host=settings.server.host,
            port=settings.server.port,
            lifespan="off",
            ws_max_size=largest(settings),
            ws_per_message_deflate=False,  # the frames are small, and the model needs the CPU
            proxy_headers=False,  # anybody could write them; we do not look at addresses behind a proxy
            server_header=False,
            timeout_graceful_shutdown=5,
            **options,
        )
        super().__init__(config)
        self._app = app
        self.state: State

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with self._app.router.lifespan_context(self._app) as state:
            self.state = cast(State, state)
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state.update(self.state)
        for listener in sockets or ():
            # Connections inherit it. asyncio would not set it on those of a socket made with protocol 0, and each
            # token would wait some 40 ms for the acknowledgement of the one before.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self.state["condition"].stopping.set()
        await self.state["drain"]()
        if open_sockets := self.state["sockets"]:
            await asyncio.wait(open_sockets, timeout=FLUSH_SECONDS)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, does not die of the signal in the end: to be told to stop is no failure."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
