"""`GET /healthz` (200 or 503, JSON) and `GET /metrics` (Prometheus text), on a port of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from qqmem_bridge.errors import SettingsError

State = Callable[[], Awaitable[dict[str, Any]]]


class Health:
    """Port 0 listens nowhere."""

    def __init__(self, host: str, port: int, state: State) -> None:
        self._host = host
        self._port = port
        self._state = state
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises SettingsError if the port is taken."""
        if not self._port:
            return
        try:
            self._server = await asyncio.start_server(self._answer, self._host, self._port, limit=8192)
        except OSError as error:
            raise SettingsError(
                f"health.port {self._port} cannot be opened on {self._host} ({error.strerror}); choose another, or 0."
            ) from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError
        ):
            async with asyncio.timeout(5):
                request = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
                writer.write(await self._response(request[1] if len(request) == 3 else b""))
                await writer.drain()
        writer.close()

    async def _response(self, path: bytes) -> bytes:
        if path == b"/healthz":
            state = await self._state()
            return _http("200 OK" if state["ok"] else "503 Service Unavailable", "application/json", json.dumps(state))
        if path == b"/metrics":
            lines = "\n".join(_lines("qqmem_bridge", await self._state()))
            return _http("200 OK", "text/plain; version=0.0.4", f"{lines}\n")
        return _http("404 Not Found", "text/plain", "There are /healthz and /metrics.\n")


def _http(status: str, kind: str, body: str) -> bytes:
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def _lines(prefix: str, state: Mapping[str, Any]) -> Iterator[str]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _lines(f"{prefix}_{name}", value)
        elif value is not None:
            yield f"{prefix}_{name} {float(value):g}"
