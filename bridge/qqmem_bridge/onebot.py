"""OneBot 11 over a WebSocket that we dial (NapCat's "WebSocket server")."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from qqmem_bridge.clock import Backoff, Clock
from qqmem_bridge.errors import CallFailed, CallLost, NotConnected, Refused
from qqmem_bridge.transport import Event

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000
"""Events that may wait to be read; beyond it the oldest go."""
_MOST_BYTES = 64 * 2**20
_SILENCE = 2.5
"""Heartbeats that may be missing before the connection counts as dead."""


class OneBot:
    """A supervised connection. Answers are matched to calls by `echo`; calls in flight fail at once on a drop."""

    def __init__(
        self, url: str, token: str, clock: Clock, *, call_timeout: float = 30.0, chance: random.Random | None = None
    ) -> None:
        self._url = url
        self._token = token
        self._clock = clock
        self._call_timeout = call_timeout
        self._backoff = Backoff(chance or random.Random())
        self._waiting: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._calls: dict[str, asyncio.Future[Event]] = {}
        self._echoes = itertools.count(1)
        self._socket: ClientConnection | None = None
        self._heard = 0.0
        self._heartbeat = 30.0
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def events(self) -> AsyncIterator[Event]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._filled.clear()
            await self._filled.wait()

    async def call(self, action: str, params: Mapping[str, Any]) -> Any:
        if self._socket is None:
            raise NotConnected(action)
        echo = f"bridge-{next(self._echoes)}"
        answer = self._calls[echo] = asyncio.get_running_loop().create_future()
        limit = asyncio.ensure_future(self._clock.sleep(self._call_timeout))
        try:
            await self._socket.send(json.dumps({"action": action, "params": dict(params), "echo": echo}))
            await asyncio.wait([answer, limit], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise CallLost(f"{action}: no answer")
            found = answer.result()
        except ConnectionClosed as error:  # some of it may have left
            raise CallLost(action) from error
        finally:
            limit.cancel()
            del self._calls[echo]
            if answer.done() and not answer.cancelled():
                answer.exception()  # the socket closed while we were sending: seen
        if found.get("retcode") not in (0, 1):
            raise CallFailed(action, int(found.get("retcode") or -1), str(found.get("message") or found.get("wording")))
        return found.get("data")

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        while True:
            try:
                async with connect(
                    self._url,
                    additional_headers=headers,
                    max_size=_MOST_BYTES,
                    ping_interval=None,
                    close_timeout=1,
                    proxy=None,
                ) as socket:
                    await self._serve(socket)
                log.warning("napcat: the connection was closed (%s)", socket.close_code)
            except InvalidStatus as error:
                if error.response.status_code in (401, 403):
                    raise _refused() from error
                log.warning("napcat: %s", error)
            except InvalidURI as error:
                raise Refused(f"napcat.url is not an address such as ws://127.0.0.1:3001: {self._url}") from error
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                log.warning("napcat: not connected (%s)", type(error).__name__)
            finally:
                self._lost()
            await self._clock.sleep(next(self._backoff))

    def _lost(self) -> None:
        if self._socket is not None:
            self._socket = None
            self.reconnects += 1
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(CallLost("the connection was lost"))

    async def _serve(self, socket: ClientConnection) -> None:
        self._heard = self._clock.now()
        watch = asyncio.create_task(self._watch(socket))
        try:
            async for raw in socket:
                self._heard = self._clock.now()
                try:
                    self._take(socket, json.loads(raw))
                except (ValueError, RecursionError):
                    log.warning("napcat: a frame that is not JSON")
        finally:
            watch.cancel()

    def _take(self, socket: ClientConnection, frame: object) -> None:
        if not isinstance(frame, dict):
            return
        answer = self._calls.get(str(frame.get("echo")))
        if answer is not None:
            if not answer.done():
                answer.set_result(frame)
        elif frame.get("retcode") == 1403:
            raise _refused()
        elif "post_type" in frame:
            if self._socket is None:
                self._socket = socket
                self._backoff.reset()
                self._put({**frame, "post_type": "meta_event", "meta_event_type": "connected"})
            if frame.get("meta_event_type") == "heartbeat":
                self._heartbeat = _seconds(frame.get("interval"))
            self._put(frame)

    def _put(self, event: Event) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            log.error("napcat: too many events wait, the oldest is dropped")
        self._waiting.append(event)
        self._filled.set()

    async def _watch(self, socket: ClientConnection) -> None:
        """Cut a connection that is silent for too long: the other end may be gone without a word.

        A NapCat without heartbeats is asked for something now and then, so that it is heard.
        """
        while True:
            await self._clock.sleep(self._heartbeat / 4)
            silent = self._clock.now() - self._heard
            if silent > _SILENCE * self._heartbeat:
                log.warning("napcat: silent for %.0f s, connecting anew", silent)
                socket.transport.abort()
                return
            if silent > 1.25 * self._heartbeat:
                with contextlib.suppress(ConnectionClosed):
                    await socket.send(json.dumps({"action": "get_status", "params": {}, "echo": "alive"}))


def _refused() -> Refused:
    return Refused(
        "NapCat does not accept the token; napcat.token (or NAPCAT_TOKEN) must be the one of its WebSocket server."
    )


def _seconds(interval: object) -> float:
    """Of a heartbeat's interval in milliseconds; nonsense counts as NapCat's default."""
    return min(max(interval / 1000, 1.0), 300.0) if isinstance(interval, int | float) and interval > 0 else 30.0
