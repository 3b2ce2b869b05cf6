"""OneBot 11 over a WebSocket that we dial (NapCat's "WebSocket server")."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed

from qqmem_bridge.clock import Clock
from qqmem_bridge.errors import CallFailed, CallLost, NotConnected
from qqmem_bridge.line import Line
from qqmem_bridge.transport import Event

log = logging.getLogger(__name__)

_MOST_WAITING = 10_000
"""Events that may wait to be read; beyond it the oldest go."""
_MOST_BYTES = 64 * 2**20
_SILENCE = 2.5
"""Heartbeats that may be missing before the connection counts as dead."""


class OneBot:
    """A connection to NapCat. Answers are matched to calls by `echo`; calls in flight fail at once on a drop."""

    def __init__(
        self, url: str, token: str, clock: Clock, *, call_timeout: float = 30.0, chance: random.Random | None = None
    ) -> None:
        self._clock = clock
        self._call_timeout = call_timeout
        self._waiting: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._calls: dict[str, asyncio.Future[Event]] = {}
        self._echoes = itertools.count(1)
        self._line = Line(
            "napcat", url, token, clock, chance,
            patience=_SILENCE * 30,
            probe=json.dumps({"action": "get_status", "params": {}, "echo": "alive"}),  # for one without heartbeats
            most_bytes=_MOST_BYTES,
            no_token="NapCat does not accept the token; "
            "napcat.token (or NAPCAT_TOKEN) must be the one of its WebSocket server.",
            no_address="napcat.url is not an address such as ws://127.0.0.1:3001",
        )  # fmt: skip

    @property
    def connected(self) -> bool:
        return self._line.connected

    @property
    def reconnects(self) -> int:
        return self._line.reconnects

    async def run(self) -> None:
        await self._line.keep_up(self._read, self._lost)

    async def events(self) -> AsyncIterator[Event]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._filled.clear()
            await self._filled.wait()

    async def call(self, action: str, params: Mapping[str, Any]) -> Any:
        return told(action, await self.ask(action, params))

    async def ask(self, action: str, params: Mapping[str, Any]) -> Event:
        """The whole answer, whatever it says. Raises NotConnected or CallLost."""
        if not self.connected:
            raise NotConnected(action)
        echo = f"bridge-{next(self._echoes)}"
        answer = self._calls[echo] = asyncio.get_running_loop().create_future()
        limit = asyncio.ensure_future(self._clock.sleep(self._call_timeout))
        try:
            await self._line.send(json.dumps({"action": action, "params": dict(params), "echo": echo}))
            await asyncio.wait([answer, limit], return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise CallLost(f"{action}: no answer")
            found: Event = answer.result()
            return found
        except ConnectionClosed as error:  # some of it may have left
            raise CallLost(action) from error
        finally:
            limit.cancel()
            del self._calls[echo]
            if answer.done() and not answer.cancelled():
                answer.exception()  # the socket closed while we were sending: seen

    def _lost(self) -> None:
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(CallLost("the connection was lost"))

    async def _read(self) -> None:
        while True:
            raw = await self._line.recv()
            try:
                frame = json.loads(raw)
            except (ValueError, RecursionError):
                log.warning("napcat: a frame that is not JSON")
                continue
            if isinstance(frame, dict):
                self._take(frame)

    def _take(self, frame: Event) -> None:
        answer = self._calls.get(str(frame.get("echo")))
        if answer is not None:
            if not answer.done():
                answer.set_result(frame)
        elif frame.get("retcode") == 1403:
            raise self._line.refused()
        elif "post_type" in frame:
            if not self.connected:
                self._line.up()
                self._put({**frame, "post_type": "meta_event", "meta_event_type": "connected"})
            if frame.get("meta_event_type") == "heartbeat":
                self._line.patience = _SILENCE * _seconds(frame.get("interval"))
            self._put(frame)

    def _put(self, event: Event) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft()
            log.error("napcat: too many events wait, the oldest is dropped")
        self._waiting.append(event)
        self._filled.set()


def told(action: str, answer: Event) -> Any:
    """The `data` of an answer. Raises CallFailed if it says no."""
    code = answer.get("retcode")
    if code not in (0, 1):
        said = str(answer.get("message") or answer.get("wording"))
        raise CallFailed(action, code if isinstance(code, int) else -1, said)
    return answer.get("data")


def _seconds(interval: object) -> float:
    """Of a heartbeat's interval in milliseconds; nonsense counts as NapCat's default."""
    return min(max(interval / 1000, 1.0), 300.0) if isinstance(interval, int | float) and interval > 0 else 30.0
